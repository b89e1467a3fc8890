"""Cells on this machine: some processes that ask for work, and one loop that says who goes next."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from hograd_bench import environment, schema
from hograd_bench.engine import child
from hograd_bench.engine._interface import FATAL, EngineError, Event, Host, Limits, Task
from hograd_bench.engine._process import Child, LostError
from hograd_bench.scratch import scratch

NOT_THERE = "not on this host: "
"""How the reason of a skipped cell begins that the host's suite does not have."""

_START_SECONDS = 180.0  # importing torch and collecting on a busy machine
_LOAD_SECONDS = 60.0  # a file of problems, which computes nothing before it is asked
_MOST_CELLS = 5000  # of one process: pytest keeps a report of each


class Local:
    """Runs cells in processes of this machine.

    Cells of one host share a process, which is replaced when a cell ends it. Cells that take time run one at a time,
    beside no other cell and no process that starts; others run ``workers`` at once, before them. With one worker the
    order of the tasks is kept.

    Args:
        workers: most processes that work at once.
        limits: what a cell may take.
        ready: a process that :func:`called` left, of the host of the first tasks; they go on in it.
    """

    def __init__(
        self,
        workers: int = 1,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        ready: Child | None = None,
    ) -> None:
        self.workers = workers
        self.limits = limits
        self.ready = ready

    def environment(self, packages: Iterable[str] = ()) -> dict[str, Any]:
        """See :meth:`hograd_bench.engine.Engine.environment`."""
        return environment.record(packages)

    def ceilings(self) -> dict[str, Any]:
        """See :meth:`hograd_bench.engine.Engine.ceilings`."""
        from hograd_bench import ceilings  # torch, which who starts processes needs for nothing else

        return ceilings.measure()

    def run(self, tasks: Sequence[Task], wanted: Callable[[Task], bool] = lambda task: True) -> Iterator[Event]:
        """See :meth:`hograd_bench.engine.Engine.run`."""
        ordered = tasks if self.workers == 1 else sorted(tasks, key=lambda task: task.timed)
        with scratch() as folder:
            session = Session(self.workers, self.limits, dict(enumerate(ordered)), folder, wanted)
            session.ready, self.ready = self.ready, None
            try:
                yield from session.events()
            finally:
                session.close()


@dataclass
class _Worker:
    """A process: it starts, or is between cells, until it asks for a task, or for more; then it waits, or runs it."""

    child: Child
    host: Host
    keys: list[int]
    alone: bool
    deadline: float = field(default_factory=lambda: time.monotonic() + _START_SECONDS)
    asks: int | None = None
    asks_more: bool = False
    running: Task | None = None
    passed: int = -1  # the last key it was answered about
    settled: bool = False

    def __post_init__(self) -> None:
        self.batch = frozenset(self.keys)

    @property
    def busy(self) -> bool:
        """Whether it takes the machine's time."""
        return self.asks is None and not self.asks_more

    def may_ask(self, key: int) -> bool:
        """Whether it will ask for a task, or does."""
        return key > self.passed and key in self.batch

    def answer(self, task: Task | None, seconds: float) -> None:
        """Let it run the task that it asks for, or leave it (None)."""
        assert self.asks is not None
        self.passed, self.asks, self.running = self.asks, None, task
        self.deadline = time.monotonic() + seconds
        if task is not None:
            self.child.mark()
        self.child.send(task is not None)

    def give(self, tasks: dict[int, Task]) -> None:
        """Tasks to ask for, after its last."""
        self.keys += tasks
        self.batch, self.asks_more, self.deadline = frozenset(tasks), False, time.monotonic() + _START_SECONDS
        self.child.send(child.described(list(tasks.values())))


@dataclass
class Session:
    """Processes at work on what is pending.

    Attributes:
        slots: most processes that work at once.
        lasting: whether processes stay for tasks that are added later, under keys that grow.
        by_threads: whether a cell takes as many slots as it has threads.
        until: when (``time.monotonic``) to leave :meth:`events`, soon after; cells go on, and so does a further call.
        ready: a process that waits for a batch.
    """

    slots: int
    limits: Limits
    pending: dict[int, Task]
    folder: Path
    wanted: Callable[[Task], bool] = lambda task: True
    lasting: bool = False
    by_threads: bool = False
    until: float = math.inf
    ready: Child | None = None
    workers: list[_Worker] = field(default_factory=list)

    def events(self) -> Iterator[Event]:
        """What happens, until every task settled or is no longer wanted, or time is up."""
        try:
            while True:
                yield from self._assign()
                for worker in self.workers:
                    if worker.asks is not None and worker.asks not in self.pending:  # it is unwanted
                        worker.answer(None, _START_SECONDS)
                if not self.pending and not any(worker.running for worker in self.workers):
                    return
                yield from self._hear()
                if self.until <= time.monotonic():
                    return
        except LostError as error:  # it cannot be started, or is no process of the engine
            raise EngineError(str(error)) from None

    def close(self) -> None:
        """End the processes."""
        while self.workers:
            self.workers.pop().child.close()

    def _assign(self) -> Iterator[Event]:
        """Give tasks, in their order, to who asks for them, and start processes for those that nobody will ask for."""
        for key, task in list(self.pending.items()):
            busy = sum(self._slots_of(worker.running) for worker in self.workers if worker.busy)
            if (busy and busy + self._slots_of(task) > self.slots) or any(
                worker.running and worker.running.timed for worker in self.workers
            ):
                return
            if not self.wanted(task):
                del self.pending[key]
                continue
            worker = next((worker for worker in self.workers if worker.may_ask(key)), None)
            if worker is None:
                self._employ(key, task)
            elif worker.asks == key:
                if task.timed and busy:
                    return  # nothing behind it starts either, so that its turn comes
                del self.pending[key]
                yield Event(task)
                worker.answer(task, self.limits.seconds)

    def _slots_of(self, task: Task | None) -> int:
        return task.cell.threads if task is not None and self.by_threads else 1

    def _employ(self, key: int, task: Task) -> None:
        """Give a share of the tasks that nobody will ask for to a process that is done with its own, or a new one."""
        one = self.slots == 1 or task.timed  # what is timed runs one by one anyway
        same = [k for k, t in self.pending.items() if t.host == task.host and not t.alone and (one or not t.timed)]
        free = [k for k in same if not any(worker.may_ask(k) for worker in self.workers)]
        # Ever smaller shares, so that none is left with a long one at the end.
        size = len(free) if one else max(1, len(free) // (2 * self.slots))
        share = {k: self.pending[k] for k in ([key] if task.alone else free[:size])}
        idle = [worker for worker in self.workers if worker.asks_more and worker.host == task.host]
        if idle and not task.alone:
            idle[0].give(share)
        else:
            given = child.batch(task.host, list(share.values()))
            process, self.ready = self.ready, None
            if process is None:
                process = _start(task.host, given, self.folder, self.limits.memory)
            else:
                process.limit(self.limits.memory)
                process.send(given)
            self.workers.append(_Worker(process, task.host, list(share), task.alone))

    def _hear(self) -> Iterator[Event]:
        """Wait for what a process says, or does not say in time."""
        deadline = min(self.until, *(worker.deadline for worker in self.workers))
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        ready = wait([worker.child.fileno() for worker in self.workers], left)
        for worker in [worker for worker in self.workers if worker.child.fileno() in ready]:
            alive = worker.child.read()
            while worker.child.messages:
                yield from self._take(worker, worker.child.messages.popleft())
            if not alive and worker in self.workers:
                yield from self._end(worker, *worker.child.death())
        for worker in [worker for worker in self.workers if worker.deadline <= time.monotonic()]:
            if worker.running is None:
                raise EngineError(f"a process was not ready within {_START_SECONDS:.0f} s:\n{worker.child.tail()}")
            yield from self._end(worker, "timeout", f"over the limit of {self.limits.seconds:g} s a cell")

    def _take(self, worker: _Worker, message: dict[str, Any]) -> Iterator[Event]:
        if "more" in message:
            worker.asks_more, worker.deadline = True, math.inf
            ours = self.lasting or any(task.host == worker.host and not task.alone for task in self.pending.values())
            if worker.alone or not ours or len(worker.keys) > _MOST_CELLS:
                self._drop(worker)
            return
        if "ask" in message:
            left, worker.running = worker.running, None
            worker.asks, worker.deadline = worker.keys[message["ask"]], math.inf
            if left is not None:
                why = f"it left no row: {worker.child.tail(1)}"
                yield Event(left, schema.row(left.cell, status="failed", reason=why))
            return
        task, worker.running, worker.settled = worker.running, None, True
        assert task is not None
        worker.deadline = time.monotonic() + _START_SECONDS
        row = message.get("row")
        if row is None:
            row = schema.row(task.cell, status="skipped", reason=f"{NOT_THERE}{message['unknown']}")
        if row["status"] in FATAL:  # its memory may be in any state
            self._drop(worker)
        yield Event(task, row)

    def _end(self, worker: _Worker, status: str, reason: str) -> Iterator[Event]:
        """A process ended, or is ended: in a cell, which is its row's status, between cells, or before the first."""
        left = sum(worker.may_ask(key) for key in self.pending)
        if worker.running is None and left and not worker.settled:
            raise EngineError(f"a process ended before the first of its {left} cells: {reason}\n{worker.child.tail()}")
        self._drop(worker)
        if worker.running is not None:
            yield Event(worker.running, schema.row(worker.running.cell, status=status, reason=reason))

    def _drop(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        worker.child.close()


def _start(host: Host, given: dict[str, Any], folder: Path, memory: int | None = None) -> Child:
    """A child of the host at work on a batch."""
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".json", delete=False, encoding="utf-8") as file:
        json.dump(given, file)
    path = {"PYTHONPATH": os.pathsep.join(host.roots)} if host.roots else {}
    variables = {**os.environ, **path, **host.variables}
    return Child(
        [host.python, "-m", "hograd_bench.engine", file.name],
        environment={name: value for name, value in variables.items() if value is not None},
        cwd=host.roots[0] if host.roots else None,
        memory=memory,
    )


def call(host: Host, function: str, *arguments: Any, seconds: float = 120.0, memory: int | None = None) -> Any:
    """What a function of the host's suite returns there, as JSON.

    Args:
        host: where to call it.
        function: ``module:name``.
        arguments: JSON-ready.
        seconds: limit, the start of the process aside.
        memory: limit on the process's private memory in bytes, or None.

    Raises:
        LostError: it raised, its process died, or it overstayed; the message ends with its last words.
    """
    with called(host, function, *arguments, seconds=seconds, memory=memory) as (result, _):
        return result


@contextlib.contextmanager
def called(
    host: Host, function: str, *arguments: Any, seconds: float = 120.0, memory: int | None = None
) -> Iterator[tuple[Any, Child]]:
    """The same as :func:`call`, with the process, which then waits for a batch of cells until the block ends."""
    with _calls(host, function, arguments, memory) as (started, answer):
        with _named(function):
            result = (started.receive(seconds) if "ready" in answer else answer)["result"]
        yield result, started


@contextlib.contextmanager
def suite(host: Host) -> Iterator[Callable[..., Any]]:
    """A process of this suite that answers one call after another, as ``call(function, *arguments, seconds=…)``.

    Raises:
        LostError: a plugin or problem file of the host cannot be loaded, hangs or ends the process, or, in the block,
            a call was lost; the message names which.
    """
    with _calls(host, "", (), None) as (started, _):

        def ask(function: str, *arguments: Any, seconds: float = 120.0) -> Any:
            started.send({"call": function, "arguments": arguments})
            with _named(function):
                return started.receive(seconds)["result"]

        yield ask


@contextlib.contextmanager
def _calls(
    host: Host, function: str, arguments: Sequence[Any], memory: int | None
) -> Iterator[tuple[Child, dict[str, Any]]]:
    """A process that has loaded what it needs, and its answer."""
    with scratch() as folder:
        given = {**child.batch(host), "call": function, "arguments": arguments}
        with _start(host, given, folder, memory) as started:
            with _named(function):
                answer = started.receive(_START_SECONDS)
            while "loading" in answer:
                file = answer["loading"]
                with _named(f"problem file: {file}"):
                    answer = started.receive(_LOAD_SECONDS)
            if "refused" in answer:
                raise LostError("failed", answer["refused"])
            yield started, answer


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Have a loss say of what."""
    try:
        yield
    except LostError as error:
        raise LostError(error.status, f"{what}: {error}" if what else str(error)) from None

"""Cells on this machine: some processes that ask for work, and one loop that says who goes next."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from hograd_bench import schema
from hograd_bench.engine import child
from hograd_bench.engine._interface import FATAL, EngineError, Event, Host, Limits, Task
from hograd_bench.engine._process import Child, LostError

NOT_THERE = "not on this host: "
"""How the reason of a skipped cell begins that the host's suite does not have."""

_START_SECONDS = 180.0  # importing torch and collecting on a busy machine


class Local:
    """Runs cells in processes of this machine.

    Cells of one host share a process, which is replaced when a cell ends it. Cells that take time run one at a time,
    beside no other cell and no process that starts; others run ``workers`` at once, before them. With one worker the
    order of the tasks is kept.

    Args:
        workers: most processes that work at once.
        limits: what a cell may take.
    """

    def __init__(self, workers: int = 1, limits: Limits = Limits()) -> None:  # noqa: B008 (frozen)
        self.workers = workers
        self.limits = limits

    def run(self, tasks: Sequence[Task], wanted: Callable[[Task], bool] = lambda task: True) -> Iterator[Event]:
        """See :meth:`hograd_bench.engine.Engine.run`."""
        ordered = tasks if self.workers == 1 else sorted(tasks, key=lambda task: task.timed)
        with tempfile.TemporaryDirectory(prefix="hograd-") as folder:
            yield from _Session(self.workers, self.limits, dict(enumerate(ordered)), wanted, Path(folder)).events()


@dataclass
class _Worker:
    """A process: it starts, or is between cells, until it asks for a task; then it waits, or runs it."""

    child: Child
    keys: list[int]
    deadline: float = field(default_factory=lambda: time.monotonic() + _START_SECONDS)
    asks: int | None = None
    running: Task | None = None
    passed: int = -1  # the last key it was answered about
    settled: bool = False

    def __post_init__(self) -> None:
        self.batch = frozenset(self.keys)

    @property
    def busy(self) -> bool:
        """Whether it takes the machine's time."""
        return self.asks is None

    def may_ask(self, key: int) -> bool:
        """Whether it will ask for a task, or does."""
        return key > self.passed and key in self.batch

    def answer(self, task: Task | None, seconds: float) -> None:
        """Let it run the task that it asks for, or leave it (None)."""
        assert self.asks is not None
        self.passed, self.asks, self.running = self.asks, None, task
        self.deadline = time.monotonic() + seconds
        self.child.send(task is not None)


@dataclass
class _Session:
    """One call of :meth:`Local.run`."""

    slots: int
    limits: Limits
    pending: dict[int, Task]
    wanted: Callable[[Task], bool]
    folder: Path
    workers: list[_Worker] = field(default_factory=list)

    def events(self) -> Iterator[Event]:
        """What happens, until every task settled or is no longer wanted."""
        try:
            while True:
                yield from self._assign()
                for worker in self.workers:
                    if worker.asks is not None and worker.asks not in self.pending:  # another has it, or it is unwanted
                        worker.answer(None, _START_SECONDS)
                if not self.pending and not any(worker.running for worker in self.workers):
                    return
                yield from self._hear()
        except LostError as error:  # it cannot be started, or is no process of the engine
            raise EngineError(str(error)) from None
        finally:
            for worker in self.workers:
                worker.child.close()

    def _assign(self) -> Iterator[Event]:
        """Give tasks, in their order, to who asks for them, and start processes for those that nobody will ask for."""
        for key, task in list(self.pending.items()):
            busy = sum(worker.busy for worker in self.workers)
            if busy >= self.slots or any(worker.running and worker.running.timed for worker in self.workers):
                return
            if not self.wanted(task):
                del self.pending[key]
                continue
            asking = next((worker for worker in self.workers if worker.asks == key), None)
            able = [worker for worker in self.workers if worker.may_ask(key)]
            if asking is not None:
                if task.timed and busy:
                    return  # nothing behind it starts either, so that its turn comes
                del self.pending[key]
                yield Event(task)
                asking.answer(task, self.limits.seconds)
            elif not able or not (task.alone or task.timed or len(able) >= min(self.slots, len(self.pending))):
                self._start(key, task)

    def _start(self, key: int, task: Task) -> None:
        keys = [key] if task.alone else [k for k, t in self.pending.items() if t.host == task.host and not t.alone]
        given = child.batch(task.host, [self.pending[k] for k in keys])
        self.workers.append(_Worker(_start(task.host, given, self.folder, self.limits.memory), keys))

    def _hear(self) -> Iterator[Event]:
        """Wait for what a process says, or does not say in time."""
        deadline = min(worker.deadline for worker in self.workers)
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
        if "ask" in message:
            worker.asks, worker.deadline = worker.keys[message["ask"]], math.inf
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
    with tempfile.TemporaryDirectory(prefix="hograd-") as folder:
        given = {**child.batch(host), "call": function, "arguments": arguments}
        with _start(host, given, Path(folder), memory) as started:
            try:
                answer = started.receive(_START_SECONDS + seconds)
                return (started.receive(seconds) if "ready" in answer else answer)["result"]
            except LostError as error:
                raise LostError(error.status, f"{function}: {error}") from None

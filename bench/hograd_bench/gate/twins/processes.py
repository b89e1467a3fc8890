"""Two worker processes, a side each, that take turns on the same cells: the gate's instrument for time."""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from hograd_bench.engine import Child, LostError
from hograd_bench.gate.revisions.sides import Side
from hograd_bench.gate.statistics.policy import Reading

WORKER = Path(__file__).with_name("worker.py")
# A turn is one call, or as many short ones as fill this: the speed of a shared core jumps within milliseconds, so the
# other side's turn must follow at once.
TURN_NS = 300_000
# A pair looks at a cell in that many stretches, seconds apart; who begins is drawn for each.
STRETCHES = 4
LEAST_TURNS = 16
MOST_TURNS = 240  # what is left of the noise then is the processes', which only further pairs average
SECONDS_PER_PAIR = 6.0
WAITED = "waited"  # a worker's status when the other side did not hand the turn over


class WorkerError(RuntimeError):
    """A worker refused a request (``status`` says how) or died (``status`` "crashed" or "timeout")."""

    def __init__(self, status: str, reason: str, worker: Worker) -> None:
        super().__init__(reason)
        self.status = status
        self.worker = worker


def environment(threads: int, hash_seed: int, padding: int) -> dict[str, str]:
    """Environment of both workers of a pair: threads pinned, one hash seed, stack shifted by ``padding`` bytes.

    The size of the environment moves the stack and with it the time of some code (Mytkowicz et al. 2009,
    "Producing wrong data without doing anything obviously wrong"): it is drawn anew for every pair.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OMP_", "MKL_", "OPENBLAS_"))}
    pinned = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return {
        **kept,
        **pinned,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONDONTWRITEBYTECODE": "",
        "HOGRAD_GATE_PADDING": "x" * padding,
    }


class Worker:
    """A live worker process of a side, which is asked and answers; use as a context manager."""

    def __init__(
        self, side: Side, env: Mapping[str, str], timeout: float = 120.0, baton: tuple[int, int] | None = None
    ) -> None:
        """Start it; ``baton`` are the pipes (to read, to write) that hand the turn over to and from the other side."""
        self.side = side
        self.timeout = timeout
        self._child = Child(
            [side.python, str(WORKER), *map(str, baton or (-1, -1)), *side.roots],
            environment={**env, **side.variables},
            cwd=side.roots[0] if side.roots else None,
            pass_fds=baton or (),
        )
        self.pid = self._child.pid
        self.bind = self._child.bind

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request without waiting for the reply."""
        self._child.send(request)

    def receive(self, timeout: float | None = None) -> dict[str, Any]:
        """The reply to the oldest unanswered request, within ``timeout`` seconds (the worker's own where None).

        Raises:
            WorkerError: the worker refused, died, or did not answer in time.
        """
        try:
            reply: dict[str, Any] = self._child.receive(self.timeout if timeout is None else timeout)
        except LostError as error:
            asked = "; is it a Python interpreter?" if error.status == "failed" else ""
            said = f"{self.side.name}: {error}" + (f" from {self.side.python}{asked}" if asked else "")
            raise WorkerError(error.status, said, self) from None
        if not reply.pop("ok"):
            raise WorkerError(reply["status"], reply["reason"], self)
        return reply

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and wait for its reply."""
        self.send({"do": do, **arguments})
        return self.receive()

    def greet(self) -> None:
        """Let it import the side's suite and plugins; :meth:`receive_greeting` waits for that."""
        self.side.check_plugins()
        self.send({"do": "hello", "plugins": list(self.side.plugins)})

    def receive_greeting(self) -> None:
        """Wait until it has.

        Raises:
            WorkerError: it has no suite, or died.
            NotComparableError: the suite is not the side's.
        """
        self.side.check_suite(self.receive()["suite"])

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self._child.close(patience=2.0)


@contextmanager
def pair(
    a: Side, b: Side, rng: random.Random, threads: int = 1, *, timeout: float = 120.0
) -> Iterator[tuple[Worker, Worker]]:
    """A fresh process pair, greeted; which side starts first is drawn from ``rng``."""
    env = environment(threads, rng.randrange(1, 2**32), rng.randrange(4096))
    order = [0, 1]
    rng.shuffle(order)
    (b_reads, a_writes), (a_reads, b_writes) = os.pipe(), os.pipe()
    batons = (a_reads, a_writes), (b_reads, b_writes)
    with ExitStack() as stack:
        workers: dict[int, Worker] = {}
        try:
            for which in order:
                workers[which] = stack.enter_context(Worker((a, b)[which], env, timeout, batons[which]))
        finally:  # only the workers hold the pipes, so that the death of one is the end of file of the other
            for fd in (*batons[0], *batons[1]):
                os.close(fd)
        for which in order:
            workers[which].greet()
        for which in order:
            workers[which].receive_greeting()
        yield workers[0], workers[1]


def share_a_core(a: Worker, b: Worker, rng: random.Random) -> None:
    """Put both workers on one core drawn for this pair: they take turns, and see the same core and neighbours."""
    if sys.platform != "linux":
        return
    allowed = sorted(os.sched_getaffinity(0))
    core = rng.choice(allowed)
    for worker in rng.sample((a, b), 2):
        worker.bind({core})  # a container may forbid it; the gate then lives with the scheduler's choice


@dataclass
class Turns:
    """What a pair saw of one cell: turn statistics in ns (min, median, mean, calls), a list a side."""

    a: list[dict[str, float]] = field(default_factory=list)
    b: list[dict[str, float]] = field(default_factory=list)

    def log_ratios(self) -> list[float]:
        """log(least call of B's turn / least call of A's turn beside it).

        The speed of a shared core jumps by tens of percent and stays so for longer than a turn: neighbours see the
        same speed, turns seconds apart do not. Within a turn, interruptions only ever add time: its least call.
        """
        return [math.log(y["min"] / x["min"]) for x, y in zip(self.a, self.b, strict=True)]


def reading(log_ratios: Sequence[float]) -> Reading:
    """What turns say together: their interquartile mean, and its standard error.

    A quarter of the turns is left out on either side: on a shared machine that is a fifth less noisy than the median
    and as deaf to spells of slowness. The error is the trimmed mean's (Tukey & McLaughlin 1963), from the winsorised
    spread, which keeps its value when the sides are exchanged, as the rule asks of an error.
    """
    ordered = sorted(log_ratios)
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    spread = stdev(winsorised) if len(winsorised) > 1 else 0.0
    return Reading(fmean(kept), spread / (len(kept) / len(ordered) * math.sqrt(len(ordered))))


def calls_for(call_ns: float, turn_ns: float = TURN_NS) -> int:
    """Calls that fill a turn; at least one."""
    return max(1, round(turn_ns / max(call_ns, 1.0)))


def turns_for(call_ns: float, cells: int, seconds: float = SECONDS_PER_PAIR) -> int:
    """Turns a side of a cell in a pair that ``cells`` share: few cells left are looked at the more closely."""
    both_ns = 2 * max(call_ns, TURN_NS)
    turns = int(seconds * 1e9 / (max(1, cells) * both_ns))
    return max(LEAST_TURNS, min(MOST_TURNS, turns)) // STRETCHES * STRETCHES


def take_turns(
    a: Worker, b: Worker, cell_a: str, cell_b: str, calls: int, turns: int, rng: random.Random, seconds: float = 0.0
) -> Turns:
    """A stretch of one cell: ``turns`` turns a side, strictly alternating; who begins is drawn.

    Strictly, and not in blocks ABBA, because a turn that follows one's own finds warmer caches than one that follows
    the other's. The workers hand over to each other: a detour by this process would cost more than many a turn.
    ``seconds`` is what the stretch should take; it is given up only after ten times that.

    Raises:
        WorkerError: of the side that failed, died or hung.
    """
    sides = [(a, cell_a), (b, cell_b)]
    rng.shuffle(sides)
    # Who waits for a hanging partner answers, at 0.8 of the limit, before it is taken for hanging itself.
    limit = max(a.timeout, 10 * seconds)
    request = {"do": "turns", "calls": calls, "turns": turns, "patience": 0.8 * limit}
    for (worker, cell), begins in zip(sides, (False, True), strict=True):  # who waits is asked first
        worker.send({**request, "cell": cell, "begins": begins})
    replies = [reply(a, limit), reply(b, limit)]
    errors = [r for r in replies if isinstance(r, WorkerError)]
    if errors:
        raise next((e for e in errors if e.status != WAITED), errors[0])
    first, second = (r["turns"] for r in replies if isinstance(r, dict))
    return Turns(first, second)


def reply(worker: Worker, timeout: float | None = None) -> dict[str, Any] | WorkerError:
    """The worker's next reply, or its error as a value."""
    try:
        return worker.receive(timeout)
    except WorkerError as error:
        return error

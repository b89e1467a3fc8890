"""Work shared with further processes, where there is so much of it that they pay; without them, done here in order."""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import Any, Generic, TypeVar

MOST = 4
"""Processes at most, this one included: what they return passes through this one."""
FORKS = sys.platform == "linux"
"""Whether a process begins as a copy of this one. Elsewhere it imports everything anew, which takes seconds."""
LARGE = (4 if FORKS else 64) * 2**20
"""Bytes of rows from which helpers pay."""

T = TypeVar("T")
Item = TypeVar("Item")


class Pending(Generic[T]):
    """What was begun. The helpers work from its front, and whoever asks for the results from its end.

    A helper is given one job at a time: what an executor has queued for it, nobody else could take any more.
    """

    def __init__(self, jobs: Sequence[Callable[[], T]], pool: ProcessPoolExecutor | None, helpers: int) -> None:
        self._jobs, self._pool = jobs, pool
        self._waiting = deque(range(len(jobs)))
        self._begun: dict[int, Future[T]] = {}
        self._lock = threading.Lock()
        for _ in range(helpers):
            self._next()

    def results(self) -> list[T]:
        """All results, in the order of the items; the first exception in that order is raised."""
        if self._pool is None:
            return [job() for job in self._jobs]
        own: dict[int, Callable[[], T]] = {}
        while (i := self._last()) is not None:
            own[i] = _settled(self._jobs[i])
        return [own[i]() if i in own else self._awaited(i) for i in range(len(self._jobs))]

    def _next(self, _done: Future[T] | None = None) -> None:
        """Give the first that waits to a helper."""
        with self._lock:
            if not self._waiting or self._pool is None:
                return
            try:
                begun = self._pool.submit(self._jobs[self._waiting[0]])
            except RuntimeError:  # helpers died (a BrokenExecutor is one), or were sent away
                return
            self._begun[self._waiting.popleft()] = begun
        begun.add_done_callback(self._next)

    def _last(self) -> int | None:
        with self._lock:
            return self._waiting.pop() if self._waiting else None

    def _awaited(self, i: int) -> T:
        try:
            return self._begun[i].result()
        except BrokenExecutor:  # the helper died, of a full memory say: nothing is lost but its time
            return self._jobs[i]()


class Crew:
    """A process and its helpers."""

    def __init__(self, pool: ProcessPoolExecutor | None = None, helpers: int = 0) -> None:
        self._pool, self._helpers = pool, helpers

    @property
    def helped(self) -> bool:
        """Whether there are helpers, to whom things have to be sent."""
        return self._pool is not None

    def begin(self, work: Callable[[Item], T], items: Iterable[Item]) -> Pending[T]:
        """Begin to apply a function of a module to items; the long ones first is best. All of it can be pickled."""
        return Pending([functools.partial(work, item) for item in items], self._pool, self._helpers)


@contextlib.contextmanager
def crew(size: int) -> Iterator[Crew]:
    """Helpers for the length of a block, as many as there are cores for; none for few bytes of rows."""
    helpers = min(_cores(), MOST) - 1
    if size < LARGE or helpers < 1:
        yield Crew()
        return
    context = multiprocessing.get_context("fork" if FORKS else "spawn")
    pool = ProcessPoolExecutor(helpers, mp_context=context, initializer=_quiet)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of threads, which numpy has at once; a helper takes no lock of theirs.
            warnings.simplefilter("ignore", DeprecationWarning)
            pool.submit(os.getpid)  # begins them now, while there is little to copy
        yield Crew(pool, helpers)
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the cyclic garbage collector, for a block that makes much and drops little."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _settled(job: Callable[[], T]) -> Callable[[], T]:
    """The result of a job, or its exception, for when it is asked for."""
    try:
        result = job()
    except Exception as error:
        return functools.partial(_throw, error)
    return lambda: result


def _throw(error: Exception) -> Any:
    raise error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _quiet() -> None:
    """A helper leaves Ctrl-C to the process that it helps."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

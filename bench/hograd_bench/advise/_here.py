"""An engine that is this process: for functions that no other process can have. Nothing is isolated, or limited."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence

from hograd_bench import measure
from hograd_bench.engine import Event, Local, Task
from hograd_bench.metrics._allocations import settled

_SECONDS, _ROUNDS = 0.05, 5


class Here(Local):
    """See :class:`hograd_bench.engine.Engine`."""

    def run(self, tasks: Sequence[Task], wanted: Callable[[Task], bool] = lambda task: True) -> Iterator[Event]:
        """One task after another; what the process holds already is out of the collector's sight meanwhile."""
        with settled():
            for task in tasks:
                if wanted(task):
                    yield Event(task)
                    yield Event(task, measure.measure(task.cell, task.families, rounds if task.timed else None))
                    gc.collect()


def rounds(call: Callable[[], object]) -> list[float]:
    """Seconds of single calls, for as long as a sweep takes them, at least five."""
    taken: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(taken) < _ROUNDS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken

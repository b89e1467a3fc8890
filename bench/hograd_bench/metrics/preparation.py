"""What a prepared kernel costs before its first call, what its graph holds, and when it has paid for itself."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from hograd_bench.metrics._contract import Metric, Missing, Readings
from hograd_bench.metrics.time import collector_off, fastest

if TYPE_CHECKING:
    from hograd_bench.metrics._subject import Subject

TURN = 52  # after all else: it prepares once more
PREPARED_ONLY = True
_MACHINE = ("torch", "threads", "isa", "device", "machine")
METRICS = (
    Metric(
        "first_preparation_seconds", "s", False, "time.perf_counter, once",
        "preparing, as this process found imports and inductor's cache on disk", _MACHINE, label="prepare",
    ),
    Metric(
        "next_preparation_seconds", "s", False, "time.perf_counter, once",
        "preparing once more in the same process", _MACHINE,
    ),
    Metric(
        "eager_seconds", "s", False, "fastest single call", "the same method called as is", _MACHINE,
    ),
    Metric(
        "breakeven_calls", "1", False, "first_preparation_seconds / (eager_seconds - seconds of a prepared call)",
        "calls after which preparing has paid for itself", _MACHINE, direction="lower", label="pays after",
    ),
    Metric("graph_operations", "1", True, "the graph", "operations of the graph that runs", ("torch",), kind="count"),
    Metric(
        "graph_peak_bytes", "B", True, "liveness of the values of the graph",
        "most bytes that its values take at once, run op by op, the result included", ("torch",),
    ),
)  # fmt: skip


def measure(subject: Subject) -> Readings:
    """Prepare once more, and time the eager method beside the prepared kernel."""
    made = subject.prepared
    assert made is not None
    started = time.perf_counter()
    subject.prepare().close()
    again = time.perf_counter() - started
    with collector_off():
        eager, ready = fastest(subject.eager_call), fastest(subject.call)
    operations, peak = made.operations, made.peak_bytes
    return Readings(
        {
            "first_preparation_seconds": subject.prepare_seconds,
            "next_preparation_seconds": again,
            "eager_seconds": eager,
            "breakeven_calls": breakeven(subject.prepare_seconds, eager, ready),
            "graph_operations": Missing("it has no graph") if operations is None else sum(operations.values()),
            "graph_peak_bytes": Missing("it has no graph") if peak is None else peak,
        },
        {"graph_operations_by_name": operations or {}},
    )


def breakeven(cost: float, before: float, after: float) -> int | Missing:
    """Calls after which a cost has paid for itself that takes a call from ``before`` to ``after`` seconds.

    The law of it: after n calls eager has taken n·before, prepared cost + n·after.
    """
    if after >= before:
        return Missing("a prepared call takes no less than an eager one")
    return math.ceil(cost / (before - after))

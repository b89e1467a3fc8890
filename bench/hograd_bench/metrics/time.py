"""Time of a warm call, of the first call, of CPU, and in gradients of the same problem.

The rounds come from a timer that the caller brings (pytest-benchmark in the sweeps room): this module
asks for samples and states what they say. The garbage collector is off while timing and runs before it;
every timed call starts with the same allocator state that the previous call left, and ends when the device has done it.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hograd_bench.metrics._contract import Metric, Missing, Readings

if TYPE_CHECKING:
    from hograd_bench.metrics._subject import Subject

TURN = 51  # last, for it leaves caches warm; needs a timer, see measure.py

Timer = Callable[[Callable[[], object]], list[float]]
"""Times a call for some rounds; returns seconds a call, one number a round."""

NOISY_IQR = 0.15
"""A row is noisy when IQR/median exceeds this ...

pytorch's own torch.utils.benchmark warns at 0.10 on quiet machines; a shared two-core machine shows 0.05-0.16
within a process on identical code, so 0.15 marks what is unusual there rather than everything."""

NOISY_GRADIENT = 0.20
"""... or when the gradient's times before and after differ by more than this share: the machine changed."""

SAMPLES_KEPT = 200
_BURST = 0.004  # seconds of calls over which CPU time is charged: long against its clock
_GRADIENT_SECONDS = 0.02
_GUARD_SECONDS = 0.02  # seconds of calls with and without the guard, in turn ...
_GUARD_TURNS = 12  # ... or this many: of fewer not even one may be free of what else the machine does
_GUARD_LIMIT = 0.002  # of a call: in a longer one the guard is far below its noise


def _metric(
    name: str,
    unit: str,
    instrument: str,
    description: str,
    kind: str = "",
    *,
    direction: str = "lower",
    label: str = "",
    overhead: bool = True,
) -> Metric:
    depends = ("torch", "threads", "isa", "device", "machine")
    return Metric(name, unit, False, instrument, description, depends, kind, direction, label=label, overhead=overhead)


_ROUNDS = "pytest-benchmark rounds (time.perf_counter)"
METRICS = (
    _metric("seconds_min", "s", _ROUNDS, "fastest round, per call", label="time"),
    _metric("seconds_median", "s", _ROUNDS, "median round, per call"),
    _metric("seconds_iqr", "s", _ROUNDS, "interquartile range of the rounds"),
    _metric("rounds", "1", _ROUNDS, "number of rounds", "count", direction=""),
    _metric("cpu_seconds", "s", "time.process_time over a burst", "CPU seconds per call, all threads"),
    _metric("first_call_seconds", "s", "time.perf_counter", "the first call on this instance, warm-up included"),
    _metric(
        "gradient_seconds", "s", "fastest single call around the rounds", "one gradient of the same f at the same x"
    ),
    _metric("gradient_seconds_before", "s", "fastest single call", "that gradient before the rounds"),
    _metric("gradient_seconds_after", "s", "fastest single call", "that gradient after the rounds"),
    _metric(
        "gradient_equivalents",
        "1",
        "seconds_min / gradient_seconds",
        "cost in gradients of the same problem",
        label="gradients",
        overhead=False,
    ),
    _metric(
        "guard_ratio",
        "1",
        "fastest single calls in turn",
        "time as a user calls it over time without the guard",
        overhead=False,
    ),
    _metric("noisy", "bool", "rule of metrics/time.py", "spread too wide, or the gradient drifted around the rounds"),
)


@contextmanager
def collector_off() -> Iterator[None]:
    """Collect once, then keep the garbage collector off inside the block."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def burst(call: Callable[[], object], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds a call over one burst of about ``seconds``, at least one call.

    Args:
        call: what is timed.
        seconds: length of the burst.
        clock: what reads the time charged (``time.process_time`` charges CPU time).

    Returns:
        Seconds per call.
    """
    calls = 0
    end = time.perf_counter() + seconds
    start = clock()
    while True:
        call()
        calls += 1
        if time.perf_counter() >= end:
            return (clock() - start) / calls


def fastest(call: Callable[[], object], seconds: float = _GRADIENT_SECONDS, least: int = 5) -> float:
    """The fastest of single calls made for ``seconds``, at least ``least`` of them, in seconds.

    Single calls, as the rounds of the timer are: contamination is one-sided, so a mean over a longer burst would make
    the gradient look slow, and whatever is divided by it fast, on a busy machine.
    """
    clock = time.perf_counter
    best = math.inf
    end = clock() + seconds
    while least > 0 or clock() < end:
        start = clock()
        call()
        best = min(best, clock() - start)
        least -= 1
    return best


def to_the_end(subject: Subject, call: Callable[[], object]) -> Callable[[], object]:
    """``call`` until its results are there: on a GPU it would return when its kernels are queued, or the queue full."""
    if subject.cell.device == "cpu":
        return call

    def finished() -> None:
        call()
        subject.wait()

    return finished


def guard_ratio(subject: Subject, seconds: float) -> float | Missing:
    """Time of the call with hograd's guard (``hograd_core.hazards``) over the time without, by turns."""
    if subject.peer is not None:
        return Missing("a peer's method passes no guard of hograd")
    if seconds > _GUARD_LIMIT:
        return Missing(
            f"a call takes longer than {_GUARD_LIMIT * 1e3:g} ms, in which the guard cannot be told from noise"
        )
    clock = time.perf_counter
    best = [math.inf, math.inf]
    calls = [to_the_end(subject, call) for call in (subject.guarded_call, subject.call)]
    turns, end = 0, clock() + _GUARD_SECONDS
    with collector_off():
        while turns < _GUARD_TURNS or clock() < end:
            for i, call in enumerate(calls):
                start = clock()
                call()
                best[i] = min(best[i], clock() - start)
            turns += 1
    return best[0] / best[1]


def is_noisy(samples: list[float], before: float, after: float) -> bool:
    """Whether the spread of ``samples`` or the drift of the gradient around them is too wide."""
    quartiles = statistics.quantiles(samples, n=4) if len(samples) > 1 else [samples[0]] * 3
    wide = quartiles[2] - quartiles[0] > NOISY_IQR * quartiles[1]
    return bool(wide or abs(math.log(after / before)) > NOISY_GRADIENT)


def measure(subject: Subject, timer: Timer, first_call_seconds: float | None = None) -> Readings:
    """Time the subject's call with ``timer``, between two timings of its gradient.

    Args:
        subject: the cell.
        timer: takes a call, returns seconds per call, one number per round.
        first_call_seconds: the first call's time, taken by whoever made that call.

    Returns:
        Values for every metric of this family; the samples (at most 200, evenly thinned) in
        ``details["samples_seconds"]``.
    """
    gradient_call, call = (to_the_end(subject, c) for c in (subject.gradient, subject.call))
    with collector_off():
        before = fastest(gradient_call)
        samples = timer(call)
        cpu = burst(call, max(_BURST, min(samples)), time.process_time)
        after = fastest(gradient_call)
    gradient = min(before, after)
    quartiles = statistics.quantiles(samples, n=4) if len(samples) > 1 else [samples[0]] * 3
    step = max(1, math.ceil(len(samples) / SAMPLES_KEPT))
    readings = Readings(
        {
            "seconds_min": min(samples),
            "seconds_median": quartiles[1],
            "seconds_iqr": quartiles[2] - quartiles[0],
            "rounds": len(samples),
            "cpu_seconds": cpu,
            "first_call_seconds": Missing("no first call was timed"),
            "gradient_seconds": gradient,
            "gradient_seconds_before": before,
            "gradient_seconds_after": after,
            "gradient_equivalents": min(samples) / gradient,
            "guard_ratio": guard_ratio(subject, min(samples)),
            "noisy": is_noisy(samples, before, after),
        },
        {"samples_seconds": samples[::step]},
    )
    if first_call_seconds is not None:
        readings.values["first_call_seconds"] = first_call_seconds
    return readings

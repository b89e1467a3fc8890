"""Time: what the samples say, from clocks and timers that the test controls."""

from __future__ import annotations

import gc
import time
import types
from typing import Any

import pytest
from hograd_bench.cells import Cell
from hograd_bench.metrics import Missing, Subject
from hograd_bench.metrics import time as timing


@pytest.fixture
def subject() -> Subject:
    return Subject(Cell("gradient", "autograd", "quadratic", 4, 1))


@pytest.mark.slow
def test_statistics_of_known_samples(subject: Subject) -> None:
    samples = [5.0, 1.0, 2.0, 4.0, 3.0]
    values = timing.measure(subject, lambda call: samples, 7.0).values
    assert values["seconds_min"] == 1.0
    assert values["seconds_median"] == 3.0
    assert values["seconds_iqr"] == 3.0  # statistics.quantiles, exclusive: 1.5 and 4.5
    assert values["rounds"] == 5
    assert values["first_call_seconds"] == 7.0
    assert values["noisy"] is True
    assert values["gradient_seconds"] == min(values["gradient_seconds_before"], values["gradient_seconds_after"])
    assert values["gradient_equivalents"] == 1.0 / values["gradient_seconds"]


@pytest.mark.slow
def test_every_metric_of_the_family_is_there(subject: Subject) -> None:
    values = timing.measure(subject, lambda call: [1.0]).values
    assert set(values) == {m.name for m in timing.METRICS}
    assert isinstance(values["first_call_seconds"], Missing)


@pytest.mark.slow
def test_samples_are_thinned_evenly_and_bounded(subject: Subject) -> None:
    kept = timing.measure(subject, lambda call: [float(i) for i in range(1, 1001)]).details["samples_seconds"]
    assert len(kept) <= timing.SAMPLES_KEPT
    assert kept[0] == 1.0
    assert kept[1] - kept[0] == kept[-1] - kept[-2]


@pytest.mark.parametrize(
    ("samples", "before", "after", "noisy"),
    [
        ([1.0] * 10, 1.0, 1.0, False),
        ([1.0] * 10, 1.0, 1.3, True),
        ([1.0] * 10, 1.3, 1.0, True),
        ([1.0, 1.2] * 5, 1.0, 1.0, True),
        ([1.0] * 9 + [50.0], 1.0, 1.0, False),  # one outlier is no spread
        ([1.0], 1.0, 1.0, False),
    ],
)
def test_noisy(samples: list[float], before: float, after: float, noisy: bool) -> None:
    assert timing.is_noisy(samples, before, after) is noisy


@pytest.mark.slow
def test_the_collector_is_off_while_timing_and_as_before_after(subject: Subject) -> None:
    seen = []
    timing.measure(subject, lambda call: seen.append(gc.isenabled()) or [1.0])
    assert seen == [False]
    assert gc.isenabled()


def test_on_a_gpu_every_timed_call_is_waited_for(subject: Subject) -> None:
    """Or the time would be that of queuing kernels, and of a full queue now and then."""
    log: list[str] = []

    def noted(name: str) -> Any:
        return lambda: log.append(name)

    calls = {name: noted(name) for name in ("call", "guarded_call", "gradient", "wait")}
    pretended = types.SimpleNamespace(cell=Cell("o", "m", "p", 1, device="cuda"), peer=None, **calls)
    samples = [1e-4, 1e-4]
    timing.measure(pretended, lambda call: [call() or s for s in samples])  # type: ignore[arg-type]
    assert log[1::2] == ["wait"] * (len(log) // 2)
    assert set(log[::2]) == {"call", "guarded_call", "gradient"}
    assert timing.to_the_end(subject, subject.call) == subject.call


def test_burst_charges_every_call_once() -> None:
    ticks = iter(range(1000))
    calls = []
    per_call = timing.burst(lambda: calls.append(0), 1e-4, lambda: float(next(ticks)))
    assert per_call == 1.0 / len(calls)


def test_burst_makes_at_least_one_call() -> None:
    assert timing.burst(lambda: time.sleep(0.002), 0.0) >= 0.002

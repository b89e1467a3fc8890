"""Time in gradients: verdicts on ratios that are drawn, and ratios on a clock that calls set."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hograd_bench.limits import _times

LIMIT = 4.0


def drawn(median: float, spread: float, seed: int) -> Iterator[float]:
    """As many as a test takes; log-normal."""
    chance = random.Random(seed)
    return (median * math.exp(chance.gauss(0, spread)) for _ in range(_times.STRETCHES))


@pytest.mark.parametrize(("median", "verdict"), [(2.0, "within"), (3.9, "within"), (4.1, "over"), (9.0, "over")])
def test_what_is_clear_is_said_at_once(median: float, verdict: str) -> None:
    taken: list[float] = []
    found = _times.judge((taken.append(r) or r for r in drawn(median, 0.005, seed=1)), LIMIT)  # type: ignore[func-returns-value]
    assert found.verdict == verdict
    assert found.ratio == pytest.approx(median, rel=0.02)
    assert found.stretches == len(taken) <= 10  # no more are measured than are needed


def test_noise_is_inconclusive_and_is_never_a_verdict_of_its_own() -> None:
    """At the limit either verdict is wrong, each with a probability of at most 1%, over all looks together."""
    found = [_times.judge(drawn(LIMIT, 0.3, seed), LIMIT).verdict for seed in range(1000)]
    assert found.count("over") <= 20  # of 10 expected at most, twice; the draws are the same each time
    assert found.count("within") <= 20
    assert found.count("inconclusive") >= 960
    even = _times.judge(iter([2.0, 8.0] * 20), LIMIT)
    assert (even.verdict, even.stretches) == ("inconclusive", 40)


def test_a_slow_call_under_much_noise_is_still_found() -> None:
    found = [_times.judge(drawn(1.5 * LIMIT, 0.3, seed), LIMIT).verdict for seed in range(100)]
    assert found.count("over") >= 90
    assert "within" not in found
    assert [_times.judge(drawn(LIMIT / 1.5, 0.3, seed), LIMIT).verdict for seed in range(100)].count("within") >= 90


class Clock:
    """Stands still but for what calls take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def call(self, name: str, seconds: float) -> Any:
        def called() -> None:
            assert not gc.isenabled()
            self.now += seconds
            self.calls.append(name)

        return called


@pytest.mark.parametrize("on", [True, False])
def test_calls_take_turns_and_the_fastest_of_each_count(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(_times.time, "perf_counter", lambda: clock.now)
    (gc.enable if on else gc.disable)()
    try:
        ratios = _times.ratios(clock.call("f", 3e-3), clock.call("g", 1e-3))
        assert [next(ratios) for _ in range(2)] == pytest.approx([3.0, 3.0])
        assert clock.calls[:4] == ["f", "f", "g", "g"]  # warm, and how long one takes
        first, second = clock.calls[4:6], clock.calls[-2:]
        assert (first, second) == (["g", "f"], ["f", "g"])  # neither is always first
        assert clock.calls[4:].count("f") == clock.calls[4:].count("g") >= 2 * 13  # for 50 ms each time
        ratios.close()  # type: ignore[attr-defined]
        assert gc.isenabled() == on
    finally:
        gc.enable()


def test_there_are_so_many_stretches_and_short_calls_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(_times.time, "perf_counter", lambda: clock.now)
    found = list(_times.ratios(clock.call("f", 1e-3), clock.call("g", 1e-5)))
    assert found == pytest.approx([100.0] * _times.STRETCHES)
    turns = clock.calls[4:].count("f")
    assert clock.calls[4:].count("g") == 10 * turns  # a tenth of a millisecond at least is timed

"""Time in gradients, by the gate's discipline: turns, bets that hold at every look, a third verdict for noise.

The function and its gradient are called in turns within one process; a stretch of turns gives one ratio, and signs of
ratios are bet on (``gate.statistics.sequential``), until it is clear on which side of the limit the median lies.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

STRETCHES = 40
ERROR = 0.01
"""Probability of either verdict where the median is at the limit."""
_TURNS, _SECONDS, _SHORTEST = 5, 0.05, 1e-4


@dataclass(frozen=True)
class Timed:
    """What is known: "within", "over" or "inconclusive", and the median ratio of so many stretches."""

    verdict: str
    ratio: float
    stretches: int


def judge(ratios: Iterator[float], limit: float) -> Timed:
    """Look at ratios until it is clear on which side of the limit their median lies.

    Args:
        ratios: time of the function over time of its gradient, one a stretch; not all need be taken.
        limit: what is allowed.
    """
    from hograd_bench.gate.statistics import sequential

    seen: list[float] = []
    threshold, enough = math.log(limit), -math.log(ERROR)
    verdict = "inconclusive"
    for ratio in ratios:
        seen.append(math.log(ratio))
        if sequential.log_wealth_above(seen, threshold) >= enough:
            verdict = "over"
        elif sequential.log_wealth_below(seen, threshold) >= enough:
            verdict = "within"
        if verdict != "inconclusive":
            break
    return Timed(verdict, math.exp(sequential.median(seen)), len(seen))


def ratios(call: Callable[[], Any], gradient: Callable[[], Any]) -> Iterator[float]:
    """Up to :data:`STRETCHES` ratios of times, the two calls taking turns, the collector off, after a warm-up."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        repeats = [_repeats(call), _repeats(gradient)]
        for stretch in range(STRETCHES):
            order = (0, 1) if stretch % 2 else (1, 0)  # neither always has the other's caches
            best = [math.inf, math.inf]
            end = time.perf_counter() + _SECONDS
            turns = 0
            while turns < _TURNS or time.perf_counter() < end:
                for side in order:
                    best[side] = min(best[side], _seconds((call, gradient)[side], repeats[side]))
                turns += 1
            gc.collect()
            yield best[0] / best[1]
    finally:
        if was_on:
            gc.enable()


def _repeats(call: Callable[[], Any]) -> int:
    call()
    return max(1, math.ceil(_SHORTEST / max(_seconds(call, 1), 1e-9)))


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return max(time.perf_counter() - start, 1e-9) / repeats

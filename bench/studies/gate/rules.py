"""The rules that other tools gate time with, on the same recorded processes. Pure; used by the study alone.

A recorded process gives, per cell, the mean of each sample of 10 ms, the least and the median call. Other tools run
their processes one after the other, so each rule is given processes that did: side A of one recorded pair, side
B of a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from scipy.stats import mannwhitneyu


@dataclass(frozen=True)
class Process:
    """What one process measured of one cell, in ns.

    Attributes:
        least: shortest call.
        middle: median call.
        means: mean call of each sample, in order.
    """

    least: float
    middle: float
    means: tuple[float, ...]


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        name: for the table.
        processes: processes it runs on each side.
        fires: (A's processes, B's processes) -> whether it calls B slower.
    """

    name: str
    processes: int
    fires: Callable[[Sequence[Process], Sequence[Process]], bool]


def _compare_fail(field: str, percent: float) -> Rule:
    """pytest-benchmark --benchmark-compare-fail: one process a side, a statistic, a percentage."""

    def statistic(p: Process) -> float:
        return p.least if field == "min" else fmean(p.means)

    return Rule(
        f"pytest-benchmark compare-fail={field}:{percent:g}%",
        1,
        lambda a, b: statistic(b[0]) > statistic(a[0]) * (1 + percent / 100),
    )


def _asv(a: Sequence[Process], b: Sequence[Process]) -> bool:
    """Asv continuous: pooled samples of two rounds; medians apart by factor 1.1 and Mann-Whitney p < 0.002."""
    first, second = ([m for p in side for m in p.means] for side in (a, b))
    if median(second) <= 1.1 * median(first):
        return False
    return bool(mannwhitneyu(first, second, alternative="two-sided").pvalue < 0.002)


def _mann_whitney(level: float) -> Callable[[Sequence[Process], Sequence[Process]], bool]:
    def fires(a: Sequence[Process], b: Sequence[Process]) -> bool:
        first, second = [p.middle for p in a], [p.middle for p in b]
        return bool(mannwhitneyu(first, second, alternative="less").pvalue < level)

    return fires


RULES = (
    _compare_fail("min", 5),
    _compare_fail("min", 10),
    _compare_fail("mean", 5),
    _compare_fail("mean", 10),
    Rule("asv continuous (factor 1.1, p<0.002)", 2, _asv),
    Rule("Mann-Whitney, 7+7 process medians, p<0.05", 7, _mann_whitney(0.05)),
    Rule("Mann-Whitney, 7+7 process medians, p<0.01", 7, _mann_whitney(0.01)),
)

"""The timing rule: from the log-ratios of process pairs to a verdict a cell. Pure; no clock, no process.

A cell is looked at after every pair, and leaves the run with its verdict:

- ``slower``: significance and effect size are both required. The wealth of a bettor against "the sides are the same"
  has reached cells / alarm_rate: Bonferroni over the cells on wealths that Ville bounds at every look, so that all
  alarms of a whole run together have probability at most ``alarm_rate`` on identical code. And the ratio lies above
  ``1 + matters``, with wealth >= 1 / miss_rate: a smaller change is called slower in at most that share of runs.
- ``faster``: the mirror image, with its own budget of the same size; it fails nothing.
- ``same``: the median is below ``1 + same`` and above ``1 / (1 + same)``, each with wealth >= 1 / miss_rate. A
  change of at least ``same`` is called "same" with probability at most ``miss_rate``, a larger one far less.
- ``inconclusive``: pairs or time ran out first. Noise and load end here, not in an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hograd_bench.gate.statistics import sequential


@dataclass(frozen=True)
class Policy:
    """Thresholds and budgets of the timing gate.

    Attributes:
        matters: relative change that a cell must clearly exceed to be called slower or faster.
        same: relative change that "same" rules out.
        alarm_rate: probability that a whole run raises any false alarm (family-wise over the cells).
        miss_rate: probability a cell that a change of exactly ``same`` is called "same", or one below ``matters``
            slower.
        interval_rate: error rate of the interval shown for a cell.
        max_pairs: process pairs at most.
        max_seconds: wall time of a whole run; exact metrics come first and are finished, time gets what is left, or a
            quarter.
    """

    matters: float = 0.02
    same: float = 0.035
    alarm_rate: float = 0.01
    miss_rate: float = 0.05
    interval_rate: float = 0.10
    max_pairs: int = 30
    max_seconds: float = 285.0

    def __post_init__(self) -> None:
        if not 0 <= self.matters < self.same:
            raise ValueError(
                f"matters: got {self.matters!r}, expected 0 <= matters < same ({self.same!r}): a change cannot "
                "matter and be the same; raise same or lower matters"
            )
        for name in ("alarm_rate", "miss_rate", "interval_rate"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ValueError(f"{name}: got {value!r}, expected a rate in (0, 1)")
        if self.max_pairs < 1 or not self.max_seconds > 0:
            raise ValueError(
                f"max_pairs, max_seconds: got {self.max_pairs!r}, {self.max_seconds!r}, expected >= 1 and > 0"
            )


@dataclass(frozen=True)
class Verdict:
    """What is known of one cell.

    Attributes:
        verdict: "same", "slower", "faster" or "inconclusive"; None while undecided.
        ratio: median over pairs of time B / time A; NaN before the first pair.
        low, high: confidence sequence of that ratio (error rate ``interval_rate``); 0 and inf when too few pairs.
        pairs: process pairs used.
    """

    verdict: str | None
    ratio: float
    low: float
    high: float
    pairs: int

    @property
    def change(self) -> float:
        """Relative change of the time, ratio - 1."""
        return self.ratio - 1.0


def judge(ratios: Sequence[float], cells: int, policy: Policy, errors: Sequence[float] | None = None) -> Verdict:
    """The state of one cell after its pairs.

    Args:
        ratios: log(time B / time A), one a pair, in order.
        cells: number of cells of the whole run, over which the alarm rate is shared.
        policy: thresholds and budgets.
        errors: standard error of each ratio within its pair, where it is known.

    Returns:
        The verdict, or ``verdict=None`` where more pairs are needed.

    Raises:
        ValueError: cells < 1.
    """
    if cells < 1:
        raise ValueError(f"cells: got {cells!r}, expected the number of cells in the run, >= 1")
    matters, same = math.log1p(policy.matters), math.log1p(policy.same)
    alarm, miss = math.log(cells / policy.alarm_rate), -math.log(policy.miss_rate)
    verdict: str | None = None
    middle = sequential.median([r for r in ratios if not math.isnan(r)])
    # An alarm is asked for first: where both bars are reached at one look, the alarm's is the higher one.
    if _clearly_above(ratios, errors, matters, alarm, miss):
        verdict = "slower"
    elif _clearly_above([-r for r in ratios], errors, matters, alarm, miss):
        verdict = "faster"
    elif sequential.log_wealth_below(ratios, same) >= miss and sequential.log_wealth_above(ratios, -same) >= miss:
        verdict = "same"
    low, high = sequential.interval(ratios, policy.interval_rate)
    return Verdict(verdict, math.exp(middle), math.exp(low), math.exp(high), len(ratios))


def _clearly_above(
    ratios: Sequence[float], errors: Sequence[float] | None, matters: float, alarm: float, miss: float
) -> bool:
    """Whether the sides differ, and by more than what matters."""
    middle = sequential.median([r for r in ratios if not math.isnan(r)])
    if not middle > matters or sequential.log_wealth_symmetric(ratios, errors) < alarm:
        return False
    return sequential.log_wealth_symmetric([r - matters for r in ratios], errors) >= miss


def conclude(verdict: Verdict) -> Verdict:
    """The verdict when no more pairs can be had: an undecided cell is inconclusive."""
    if verdict.verdict is not None:
        return verdict
    return Verdict("inconclusive", verdict.ratio, verdict.low, verdict.high, verdict.pairs)


class Reading(NamedTuple):
    """What a process pair says of a cell.

    Attributes:
        ratio: log(time B / time A).
        error: its standard error within the pair.
    """

    ratio: float
    error: float


class Progress:
    """A whole run's verdicts as pairs come in, live or recorded.

    Attributes:
        verdicts: the state of each cell that was seen.
        left: cells without a verdict, in order.
    """

    def __init__(self, cells: Sequence[str], policy: Policy) -> None:
        self.left = list(cells)
        self.verdicts: dict[str, Verdict] = {}
        self._family = len(cells)
        self._policy = policy
        self._seen: dict[str, list[Reading]] = {cell: [] for cell in cells}

    def add(self, pair: Mapping[str, Reading]) -> None:
        """Judge what is left by one more pair; cells that the pair lacks wait."""
        for cell in [c for c in self.left if c in pair]:
            seen = self._seen[cell]
            seen.append(pair[cell])
            ratios, errors = [r.ratio for r in seen], [r.error for r in seen]
            self.verdicts[cell] = judge(ratios, self._family, self._policy, errors)
            if self.verdicts[cell].verdict is not None:
                self.left.remove(cell)

    def drop(self, cell: str) -> None:
        """Take a cell out of the run."""
        if cell in self.left:
            self.left.remove(cell)

    def conclude(self) -> dict[str, Verdict]:
        """The verdicts when no more pairs can be had."""
        return {cell: conclude(verdict) for cell, verdict in self.verdicts.items()}

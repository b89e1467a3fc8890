"""The timing rule: from the log-ratios of process pairs to a verdict a cell. Pure; no clock, no process.

A cell is looked at after every pair, and leaves the run with its verdict:

- ``slower``: the median ratio is above ``1 + matters``, with wealth >= cells / alarm_rate. Bonferroni over the
  cells on wealths that Ville bounds at every look: all alarms of a whole run together have probability at most
  ``alarm_rate`` on identical code. Effect size (``matters``) and significance are both required.
- ``faster``: the mirror image, with its own budget of the same size; it fails nothing.
- ``same``: the median is below ``1 + same`` and above ``1 / (1 + same)``, each with wealth >= 1 / miss_rate. A
  change of at least ``same`` is called "same" with probability at most ``miss_rate``, a larger one far less.
- ``inconclusive``: pairs or time ran out first. Noise and load end here, not in an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hograd_bench.gate import sequential

VERDICTS = ("same", "slower", "faster", "inconclusive")


@dataclass(frozen=True)
class Policy:
    """Thresholds and budgets of the timing gate.

    Attributes:
        matters: relative change below which a cell is never called slower or faster.
        same: relative change that "same" rules out.
        alarm_rate: probability that a whole run raises any false alarm (family-wise over the cells).
        miss_rate: probability a cell that a change of exactly ``same`` is called "same".
        interval_rate: error rate of the interval shown for a cell.
        max_pairs: process pairs at most.
        max_seconds: wall time of a whole run at most; exact metrics come first, time gets what is left.
    """

    matters: float = 0.02
    same: float = 0.04
    alarm_rate: float = 0.01
    miss_rate: float = 0.05
    interval_rate: float = 0.10
    max_pairs: int = 40
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
        verdict: one of :data:`VERDICTS`, or None while undecided.
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


def judge(ratios: Sequence[float], cells: int, policy: Policy) -> Verdict:
    """The state of one cell after its pairs.

    Args:
        ratios: log(time B / time A), one a pair, in order.
        cells: number of cells of the whole run, over which the alarm rate is shared.
        policy: thresholds and budgets.

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
    # An alarm is asked for first: where both bars are reached at one look, the alarm's is the higher one.
    if sequential.log_wealth_above(ratios, matters) >= alarm:
        verdict = "slower"
    elif sequential.log_wealth_below(ratios, -matters) >= alarm:
        verdict = "faster"
    elif sequential.log_wealth_below(ratios, same) >= miss and sequential.log_wealth_above(ratios, -same) >= miss:
        verdict = "same"
    low, high = sequential.interval(ratios, policy.interval_rate)
    return Verdict(verdict, math.exp(sequential.median(ratios)), math.exp(low), math.exp(high), len(ratios))


def conclude(verdict: Verdict) -> Verdict:
    """The verdict when no more pairs can be had: an undecided cell is inconclusive."""
    if verdict.verdict is not None:
        return verdict
    return Verdict("inconclusive", verdict.ratio, verdict.low, verdict.high, verdict.pairs)


def replay(pairs: Sequence[Mapping[str, float]], policy: Policy) -> dict[str, Verdict]:
    """The whole run's verdicts from recorded pairs: what the live loop does, without the machine.

    Args:
        pairs: for each process pair, cell -> log-ratio. The first pair names the cells.
        policy: thresholds; ``max_pairs`` bounds how many are used, time plays no part.

    Returns:
        Verdict by cell.
    """
    if not pairs:
        return {}
    cells = list(pairs[0])
    done: dict[str, Verdict] = {}
    seen: dict[str, list[float]] = {cell: [] for cell in cells}
    for pair in pairs[: policy.max_pairs]:
        for cell in cells:
            if cell not in done:
                seen[cell].append(pair[cell])
                state = judge(seen[cell], len(cells), policy)
                if state.verdict is not None:
                    done[cell] = state
        if len(done) == len(cells):
            break
    return {cell: done.get(cell) or conclude(judge(seen[cell], len(cells), policy)) for cell in cells}

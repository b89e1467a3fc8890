"""Where one way starts to beat another: the crossing of two measured curves, with an interval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from hograd_bench.laws._outcomes import InsufficientData


@dataclass(frozen=True)
class Crossover:
    """From where on the second series is smaller than the first.

    Attributes:
        kind: "crosses" (second wins from ``at`` on), "crosses back" (second wins up to ``at``), "first wins",
            "second wins" (everywhere), "several" (more than one clear change), "tie" (never clear).
        at: the crossing, interpolated in log-log between measured x, or None where there is none.
        low, high: the interval in which the crossing lies; outside it the winner is clear. None for open ends.
        ratios: x -> second over first.
        margin: factor by which ratios may be off at the level asked for; within it nothing is clear.
    """

    kind: str
    at: float | None
    low: float | None
    high: float | None
    ratios: dict[float, float]
    margin: float

    def text(self, first: str, second: str, variable: str) -> str:
        """A sentence on who wins where."""
        x = list(self.ratios)
        span = f"{variable} = {x[0]:.10g} to {x[-1]:.10g}"
        if self.kind == "first wins":
            return f"{first} beats {second} at every {span}"
        if self.kind == "second wins":
            return f"{second} beats {first} at every {span}"
        if self.kind == "tie":
            return f"{first} and {second} are within {self.margin - 1:.0%} of each other at {span}"
        if self.kind == "several" or self.at is None:
            return f"{first} and {second} change places more than once over {span}"
        if self.low is None:
            one, other = (second, first) if self.kind == "crosses" else (first, second)
            return f"{one} beats {other} from {variable} = {self.at:.10g} on; neither is clear below"
        if self.high is None:
            one, other = (first, second) if self.kind == "crosses" else (second, first)
            return f"{one} beats {other} up to {variable} = {self.at:.10g}; neither is clear beyond"
        at = f"{variable} ≈ {self.at:.3g} [{self.low:.10g}, {self.high:.10g}]"
        return f"{second} beats {first} " + (f"from {at} on" if self.kind == "crosses" else f"up to {at} only")


def crossover(
    first: Mapping[float, Sequence[float]],
    second: Mapping[float, Sequence[float]],
    *,
    noise: float,
    level: float = 0.95,
    minimum: int = 3,
) -> Crossover | InsufficientData:
    """Compare two series at the x they share.

    At each x the ratio of medians is taken; it is clear if it differs from 1 by more than the noise of a
    ratio at that level. The crossing lies between the last x at which the first wins clearly and the first x
    from which the second wins clearly at all that follow.

    Args:
        first: x -> the measurements there (one or more, positive).
        second: the same for the other way.
        noise: relative standard deviation of one measurement; 0 for exact metrics.
        level: confidence at which a ratio counts as clear.
        minimum: least number of shared x.

    Returns:
        The crossover, or InsufficientData for fewer than ``minimum`` shared x.
    """
    shared = sorted(x for x in first if _clean(first[x]) and x in second and _clean(second[x]))
    if len(shared) < minimum:
        return InsufficientData(f"{len(shared)} points measured for both", f"at least {minimum}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    ratios = {x: _median(_clean(second[x])) / _median(_clean(first[x])) for x in shared}
    sides = []
    worst = 1.0
    for x in shared:
        counts = (len(_clean(first[x])), len(_clean(second[x])))
        margin = math.exp(z * noise * math.sqrt(1 / counts[0] + 1 / counts[1]))
        worst = max(worst, margin)
        sides.append(0 if 1 / margin <= ratios[x] <= margin else (1 if ratios[x] < 1 else -1))
    clear = [s for s in sides if s]
    changes = sum(a != b for a, b in itertools.pairwise(clear))
    if not clear:
        return Crossover("tie", None, None, None, ratios, worst)
    if changes > 1:
        return Crossover("several", None, None, None, ratios, worst)
    if changes == 0:
        # A clear winner everywhere, or one that becomes clear only on one side of the range.
        winner = "second wins" if clear[0] > 0 else "first wins"
        if len(clear) == len(sides):
            return Crossover(winner, None, None, None, ratios, worst)
        inner = [i for i, s in enumerate(sides) if s]
        if inner[0] > 0 and inner[-1] == len(sides) - 1:
            at = shared[inner[0]]
            kind = "crosses" if clear[0] > 0 else "crosses back"
            return Crossover(kind, at, None, at, ratios, worst)
        if inner[0] == 0 and inner[-1] < len(sides) - 1:
            at = shared[inner[-1]]
            kind = "crosses back" if clear[0] > 0 else "crosses"
            return Crossover(kind, at, at, None, ratios, worst)
        return Crossover(winner, None, None, None, ratios, worst)
    turn = next(i for i in range(1, len(sides)) if sides[i] and any(s == -sides[i] for s in sides[:i]))
    before = max(i for i in range(turn) if sides[i] == -sides[turn])
    kind = "crosses" if sides[turn] > 0 else "crosses back"
    return Crossover(kind, _interpolate(shared, ratios, before, turn), shared[before], shared[turn], ratios, worst)


def _interpolate(x: Sequence[float], ratios: Mapping[float, float], before: int, turn: int) -> float:
    """Geometric interpolation at which the ratio passes 1 between two x."""
    for i in range(before, turn):
        a, b = math.log(ratios[x[i]]), math.log(ratios[x[i + 1]])
        if a == b or a * b > 0:
            continue
        share = a / (a - b)
        return math.exp(math.log(x[i]) + share * (math.log(x[i + 1]) - math.log(x[i])))
    return math.sqrt(x[before] * x[turn])


def _clean(values: Sequence[float]) -> list[float]:
    return [v for v in values if math.isfinite(v) and v > 0]


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else math.sqrt(ordered[middle - 1] * ordered[middle])

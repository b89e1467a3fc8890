"""Sequential sign tests: error bounds that hold at every look, whatever the shape of the noise.

The unit of replication is a process pair. Pair i gives one log-ratio r_i = log(time B / time A) a cell. Which
side starts first is drawn by a fair coin for every pair, so for identical code r_i and -r_i have the same
distribution given everything seen before, whatever the noise, drift or load: P(r_i > m | past) <= 1/2 for
every m >= 0. That is the whole assumption. A bettor who stakes on "r_i > m" at even odds then has a wealth
that is a nonnegative supermartingale, and by Ville's inequality (Ville 1939; Shafer et al. 2011,
"Test martingales, Bayes factors and p-values") it ever reaches 1/alpha with probability at most alpha: one may look
after every pair and stop when one likes. The wealth mixes fixed bets (Robbins 1970's method of mixtures, on
the Bernoulli family); inverting it gives a confidence sequence for the median (Howard & Ramdas 2022).

A test that uses magnitudes cannot do much better without assuming their distribution: given |r|, a fair sign
multiplies any such wealth by at most 2 a pair, so log2(1/alpha) pairs are needed at least; all-equal signs
reach 1/alpha here at most two pairs later (for alpha >= 1e-5).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

# Bets on P(success) and their weights. Most weight on near certainty: a change that matters moves every pair.
BETS = ((0.97, 0.6), (0.85, 0.3), (0.70, 0.1))


@functools.cache
def log_wealth(successes: int, trials: int) -> float:
    """Log of the mixture wealth against "P(success | past) <= 1/2" after ``trials`` pairs.

    Args:
        successes: number of pairs beyond the threshold.
        trials: number of pairs.

    Returns:
        log sum_j w_j (2 p_j)^s (2 (1 - p_j))^(n - s); 0 before the first pair.

    Raises:
        ValueError: the counts contradict each other.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes: got {successes} of {trials} trials, expected 0 <= successes <= trials")
    terms = [math.log(w) + successes * math.log(2 * p) + (trials - successes) * math.log(2 * (1 - p)) for p, w in BETS]
    top = max(terms)
    return top + math.log(sum(math.exp(t - top) for t in terms))


def log_wealth_above(ratios: Sequence[float], threshold: float) -> float:
    """Log evidence that the median of ``ratios`` lies above ``threshold``; a tie or a NaN counts against."""
    return log_wealth(sum(r > threshold for r in ratios), len(ratios))


def log_wealth_below(ratios: Sequence[float], threshold: float) -> float:
    """Log evidence that the median of ``ratios`` lies below ``threshold``; a tie or a NaN counts against."""
    return log_wealth(sum(r < threshold for r in ratios), len(ratios))


@functools.cache
def needed(trials: int, alpha: float) -> int | None:
    """Fewest successes among ``trials`` whose wealth reaches 1/alpha, or None where even all do not."""
    _check_alpha(alpha)
    bar = -math.log(alpha)
    for successes in range((trials + 1) // 2, trials + 1):
        if log_wealth(successes, trials) >= bar:
            return successes
    return None


def interval(ratios: Sequence[float], alpha: float) -> tuple[float, float]:
    """Confidence sequence for the median log-ratio: covers at all times at once with probability 1 - alpha.

    Each side takes alpha/2. Infinite where there are too few pairs.

    Args:
        ratios: one log-ratio a pair.
        alpha: error rate of the whole sequence.

    Returns:
        (lower, upper).

    Raises:
        ValueError: alpha is not in (0, 1).
    """
    count = needed(len(ratios), alpha / 2)
    finite = [r for r in ratios if not math.isnan(r)]
    if count is None or count > len(finite):
        return -math.inf, math.inf
    ordered = sorted(finite)
    return ordered[-count], ordered[count - 1]


def median(values: Sequence[float]) -> float:
    """Median; NaN of nothing."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def clopper_pearson_upper(events: int, trials: int, confidence: float = 0.95) -> float:
    """One-sided upper confidence bound of a rate (Clopper & Pearson 1934), by bisection on the binomial CDF.

    Args:
        events: number seen.
        trials: number of independent runs.
        confidence: coverage.

    Returns:
        The largest rate under which ``events`` or fewer have probability at least 1 - confidence.

    Raises:
        ValueError: the counts contradict each other.
    """
    if not 0 <= events <= trials:
        raise ValueError(f"events: got {events} of {trials} trials, expected 0 <= events <= trials")
    if events == trials:
        return 1.0

    def at_most(rate: float) -> float:
        if rate <= 0.0:
            return 1.0
        logs = (
            math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * math.log(rate) + (trials - k) * math.log1p(-rate)
            for k in range(events + 1)
        )  # fmt: skip
        return math.fsum(math.exp(v) for v in logs)

    low, high = events / trials, 1.0 - 1e-15
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(middle) > 1 - confidence else (low, middle)
    return high


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: got {alpha!r}, expected a number in (0, 1)")

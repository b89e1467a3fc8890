"""Sequential tests whose error bounds hold at every look, whatever the shape of the noise.

The unit of replication is a process pair. Pair i gives one log-ratio r_i = log(time B / time A) a cell. Which
side starts first is drawn by a fair coin for every pair, so for identical code r_i and -r_i have the same
distribution given everything seen before, whatever the noise, drift or load: given |r_i| and the past, the sign of
r_i is a fair coin. That is the whole assumption. A bettor who stakes on a sign at even odds then has a wealth
that is a nonnegative martingale, and by Ville's inequality (Ville 1939; Shafer et al. 2011, "Test martingales,
Bayes factors and p-values") it ever reaches 1/alpha with probability at most alpha: one may look after every pair and
stop when one likes. Wealths of several bettors may be averaged (Robbins 1970's method of mixtures).

Two families of bets:

- :func:`log_wealth` stakes a fixed share on "beyond a threshold" (the Bernoulli family). It needs the sign alone,
  so it tests any median; inverting it gives a confidence sequence (Howard & Ramdas 2022).
- :func:`log_wealth_symmetric` stakes the more the further |r_i| is from zero in units of its own error (the
  one-sample test of symmetry as a bet; de la Pena 1999 bounds the same wealth for fixed stakes). How much is wagered
  may depend on |r_i|, never on its sign, so the bound is the same; the power under noise is several times that of signs
  beyond a threshold. A fair sign multiplies any such wealth by at most 2 a pair: log2(1/alpha) pairs are needed at
  least.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
# Bets on P(success) and their weights. Most weight on near certainty: a change that matters moves every pair.
BETS = ((0.97, 0.6), (0.85, 0.3), (0.70, 0.1))
# Bets by size: the likelihood ratio of a shift by +mu against one by -mu under Student's t noise, whose scale is the
# pair's own error within and a spread between processes, of which no single pair knows.
SHIFTS = (0.03, 0.06, 0.12, 0.30)
SPREADS = (0.005, 0.02)
FREEDOM = 4.0  # outliers: a ratio far beyond shift and scale says little
MOST_STAKED = 0.97  # no single pair may ruin the bettor
SIGN_SHARE = 0.2  # of the starting wealth is bet on signs alone, in case the errors are misjudged


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


def log_wealth_symmetric(ratios: Sequence[float], errors: Sequence[float] | None = None) -> float:
    """Log evidence that ``ratios`` are larger than a symmetric distribution about 0 would make them.

    Args:
        ratios: one log-ratio a pair; a NaN bets nothing.
        errors: standard error of each ratio within its pair, from what does not change when the sides are exchanged;
            None: unknown, taken as 0.

    Returns:
        Log of the mixture wealth: a martingale started at 1 where the sign of every ratio is fair given its size,
        its error and the past. 0 before the first pair.

    Raises:
        ValueError: there is not one error a ratio.
    """
    known = [0.0] * len(ratios) if errors is None else list(errors)
    if len(known) != len(ratios):
        raise ValueError(f"errors: got {len(known)}, expected one for each of the {len(ratios)} ratios")
    r = np.asarray(ratios, dtype=float)
    e = np.nan_to_num(np.asarray(known, dtype=float), nan=1.0, posinf=1.0)
    r, e = r[np.isfinite(r)], e[np.isfinite(r)]
    stakes = np.minimum(_stakes(np.abs(r), e), MOST_STAKED)
    sized = np.log1p(np.sign(r) * stakes).sum(axis=-1) + math.log((1 - SIGN_SHARE) / (len(SHIFTS) * len(SPREADS)))
    signs = math.log(SIGN_SHARE) + log_wealth(int((r > 0).sum()), int((r != 0).sum()))
    return float(np.logaddexp.reduce([*sized.ravel(), signs]))


def _stakes(size: Array, error: Array) -> Array:
    """[shift, spread, pair] Share of the wealth to stake on the sign of a ratio of that size."""
    scale = np.hypot(error, np.asarray(SPREADS)[:, None])
    power = -(FREEDOM + 1) / 2
    up, down = (
        (1 + ((size + sign * np.asarray(SHIFTS)[:, None, None]) / scale) ** 2 / FREEDOM) ** power for sign in (-1, 1)
    )
    stakes: Array = (up - down) / (up + down)
    return stakes


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


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: got {alpha!r}, expected a number in (0, 1)")

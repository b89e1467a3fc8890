"""Fitted laws: how a noisy positive metric grows with a size, with an honest interval.

The model is y = a + b·nᵖ(log n)^q, q ∈ {0, 1}, with multiplicative noise (see _posterior.py): an exponent is
stated up to a logarithm, which no timing can tell from a small power. The interval of p contains what the
overhead a could hide; where the sizes never leave the overhead it is as wide as the prior, and no rule can pass
on it. It is the credible interval on all points, widened by the (80%) intervals with any one size left out, so
that a single size (a cache step, a bad minute) cannot decide.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hograd_bench.laws._outcomes import InsufficientData
from hograd_bench.laws._posterior import OVERHEADS, Array, Posterior, posterior

STEP = 0.05
LEAST_EXPONENT = -1.0
MAX_EXPONENT = 4.0
LOGARITHM = 0.2  # prior probability of a logarithmic factor
LEVEL = 0.99
LEFT_OUT_LEVEL = 0.8
MIN_SIZES = 4
MIN_SPAN = 8.0
NOISE = 0.10
BENT = 2.0  # parameters beside the location that a fit adapts to its points
# Named growths by (exponent, logarithm); their shares of the evidence are stated beside the interval.
NAMED = {"1": (0.0, 0), "√n": (0.5, 0), "n": (1.0, 0), "n log n": (1.0, 1), "n²": (2.0, 0), "n³": (3.0, 0)}


@dataclass(frozen=True)
class Prediction:
    """A value to expect at a size that was not measured.

    Attributes:
        value: median of the predictive distribution.
        low, high: central interval.
        coverage: the share of new measurements that the interval is meant to contain.
    """

    value: float
    low: float
    high: float
    coverage: float


@dataclass(frozen=True)
class FittedLaw:
    """y = overhead + coefficient · size**exponent, with noise.

    Attributes:
        metric, variable: what grows with what.
        exponent: posterior median.
        low, high: interval of the exponent at ``level``.
        level: its credibility.
        overhead, coefficient: a and b at the exponent, in the metric's unit.
        noise: standard deviation of log y around the law.
        sizes, values: the points.
        weights: weight of each point (below 1: treated as an outlier).
        regime: the sizes at which b·nᵖ is at least a: the asymptotic regime.
        guess: the noise that was guessed beforehand.
        grid: the posterior of the exponent, outliers weighted down.
    """

    metric: str
    variable: str
    exponent: float
    low: float
    high: float
    level: float
    overhead: float
    coefficient: float
    noise: float
    sizes: tuple[float, ...]
    values: tuple[float, ...]
    weights: tuple[float, ...]
    regime: tuple[float, ...]
    guess: float
    grid: Posterior

    # Not every reader of a law asks for these two, and they take a third of its time.
    @functools.cached_property
    def evidence(self) -> dict[str, float]:
        """Named growth -> its share of the evidence among the named ones, overhead allowed."""
        return _named(np.array(self.sizes), np.log(self.values), self.guess, self.grid.overhead)

    @functools.cached_property
    def outlook(self) -> Posterior:
        """The posterior that predictions are made from: every point counts, since new ones may be outliers too."""
        highest = float(self.grid.theta.max())
        return _fit(np.array(self.sizes), np.log(self.values), self.guess, self.grid.overhead, highest, robust=False)

    @property
    def formula(self) -> str:
        """Text such as ``seconds_min ≈ 2.1e-05 + 3.4e-08·n^1.02``."""
        growth = f"{self.coefficient:.3g}·{self.variable}^{self.exponent:.2f}"
        return f"{self.metric} ≈ " + (f"{self.overhead:.3g} + {growth}" if self.overhead > 0 else growth)

    @property
    def text(self) -> str:
        """Formula, interval and regime in one line."""
        where = (
            f"{self.variable} ≥ {min(self.regime):g} is the asymptotic regime"
            if self.regime
            else "overhead dominates at every size"
        )
        interval = f"exponent {self.exponent:.2f} [{self.low:.2f}, {self.high:.2f}] at {self.level:.0%}"
        return f"{self.formula}; {interval}; {where}; noise {self.noise:.0%}"

    def predict(self, size: float, coverage: float = 0.9) -> Prediction:
        """The metric at a size, with an interval that is meant to contain ``coverage`` of new measurements.

        Raises:
            ValueError: size or coverage out of range.
        """
        if not size > 0:
            raise ValueError(f"size: got {size}, expected a number > 0")
        if not 0 < coverage < 1:
            raise ValueError(f"coverage: got {coverage}, expected a share between 0 and 1")
        growth = _growth(np.array([size], dtype=float), self.outlook.theta, max(self.sizes))[:, 0]
        # Exponent and overhead bend to the points, which makes the noise look smaller than it is.
        inflation = math.sqrt(self.outlook.effective / (self.outlook.effective - BENT))
        middle, low, high = self.outlook.predictive(growth, coverage, inflation)
        return Prediction(float(np.exp(middle)), float(np.exp(low)), float(np.exp(high)), coverage)


def fit_power(
    sizes: Sequence[float],
    values: Sequence[float],
    *,
    metric: str = "y",
    variable: str = "n",
    level: float = LEVEL,
    noise: float = NOISE,
    overhead: bool = True,
    max_exponent: float = MAX_EXPONENT,
) -> FittedLaw | InsufficientData:
    """Fit y = a + b·nᵖ, a ≥ 0.

    Args:
        sizes: of the points; a size may occur several times (repeats, processes).
        values: of the points; those not finite or not positive are missing measurements and left out.
        metric: name for the formula.
        variable: name of the size.
        level: credibility of the exponent's interval.
        noise: prior guess of the relative noise between processes, worth three observations.
        overhead: False fits a plain power law, for ratios, which have no additive overhead.
        max_exponent: largest exponent considered; the prior is uniform up to it.

    Returns:
        The law, or InsufficientData: fewer than 4 sizes or less than a factor 8 between them.

    Raises:
        ValueError: sizes and values differ in number, or level is no share.
    """
    if len(sizes) != len(values):
        raise ValueError(f"values: got {len(values)}, expected one for each of the {len(sizes)} sizes")
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a share between 0 and 1")
    x = np.asarray(sizes, dtype=float)
    y = np.asarray(values, dtype=float)
    ok = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    x, y = x[ok], y[ok]
    lack = lacking(x, variable)
    if lack is not None:
        return lack
    grids = OVERHEADS if overhead else np.zeros(1)
    fit = _fit(x, np.log(y), noise, grids, max_exponent)
    low, high = fit.interval(level)
    for size in np.unique(x):
        rest = x != size
        without = _fit(x[rest], np.log(y[rest]), noise, grids, max_exponent).interval(LEFT_OUT_LEVEL)
        low, high = min(low, without[0]), max(high, without[1])
    # The printed formula is the best plain power at the median exponent.
    i, j = fit.at(int(np.argmin(np.abs(fit.theta[: len(fit.theta) // 2] - fit.median))))
    b_at_largest = float(np.exp(fit.location[i, j]))
    exponent = float(fit.theta[i])
    coefficient = b_at_largest / float(x.max()) ** exponent
    a = b_at_largest * float(fit.overhead[j])
    return FittedLaw(
        metric=metric,
        variable=variable,
        exponent=exponent,
        low=low,
        high=high,
        level=level,
        overhead=a,
        coefficient=coefficient,
        noise=float(fit.scale[i, j]),
        sizes=tuple(float(v) for v in x),
        values=tuple(float(v) for v in y),
        weights=tuple(float(w) for w in fit.point_weights),
        regime=tuple(float(v) for v in np.unique(x) if coefficient * v**exponent >= a),
        guess=noise,
        grid=fit,
    )


def lacking(x: Array, variable: str) -> InsufficientData | None:
    """What the sizes lack for a growth law, or None."""
    distinct = np.unique(x)
    span = float(distinct[-1] / distinct[0]) if len(distinct) else 0.0
    if len(distinct) >= MIN_SIZES and span >= MIN_SPAN:
        return None
    have = f"{len(distinct)} sizes" + (f" over a factor {span:.3g}" if len(distinct) > 1 else "")
    return InsufficientData(have, f"at least {MIN_SIZES} values of {variable} over a factor {MIN_SPAN:g}")


def _fit(
    x: Array, log_y: Array, noise: float, overheads: Array, max_exponent: float, *, robust: bool = True
) -> Posterior:
    # Decay is for ratios alone; with an overhead it would mean a plateau, which is not growth.
    least = LEAST_EXPONENT if len(overheads) == 1 else 0.0
    theta = np.tile(np.arange(round(least / STEP), round(max_exponent / STEP) + 1) * STEP, 2)
    half = len(theta) // 2
    prior = np.log(np.repeat([1 - LOGARITHM, LOGARITHM], half) / half)
    growth = _growth(x, theta, float(x.max()))
    return posterior(log_y, growth, theta, noise=noise, overheads=overheads, log_prior=prior, robust=robust)


def _growth(x: Array, theta: Array, reference: float) -> Array:
    """[θ, points] log of g: plain powers in the first half of the rows, powers times log n in the second."""
    power = theta[:, None] * np.log(x / reference)[None, :]
    power[len(theta) // 2 :] += _log_factor(x, reference)
    return power


def _log_factor(x: Array, reference: float) -> Array:
    # log(1 + n): finite and positive from n = 1 on.
    factor: Array = np.log(np.log1p(x) / np.log1p(reference))
    return factor


def _named(x: Array, log_y: Array, noise: float, overheads: Array) -> dict[str, float]:
    scores: dict[str, float] = {}
    reference = float(x.max())
    for name, (power, logarithm) in NAMED.items():
        curve = power * np.log(x / reference) + logarithm * _log_factor(x, reference)
        # A constant cannot be told from its overhead: it has none.
        grid = np.zeros(1) if name == "1" else overheads
        fit = posterior(log_y, curve[None, :], np.zeros(1), noise=noise, overheads=grid, robust=False)
        scores[name] = fit.log_evidence
    top = max(scores.values())
    mass = {name: float(np.exp(score - top)) for name, score in scores.items()}
    total = sum(mass.values())
    return {name: value / total for name, value in mass.items()}

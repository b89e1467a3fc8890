"""Overhead plus growth, y = a + b·g(x; θ): the posterior over θ on a grid, everything else integrated out.

Times and other positive noisy metrics have multiplicative noise, so that the model is
log y = c + log(ρ + g(x; θ)) + ε with ρ = a/b the overhead in units of g at the largest x. For a (θ, ρ) the
location c (flat prior) and the variance of ε (scaled inverse χ² prior: `noise` with `PRIOR_WEIGHT` degrees of
freedom) integrate in closed form (Gelman et al. 2013, §3.2), which leaves a two-dimensional grid. A flat
stretch of small sizes makes ρ large and θ uncertain, instead of making θ small: overhead cannot pass for
slow growth. Outliers are weighted down by Student-t weights (ν = 4; Lange, Little & Taylor 1989) from a
robust first fit.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]
# Log-spaced overheads; the largest makes growth of one decade invisible beneath 1% noise.
OVERHEADS = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 25)])
PRIOR_WEIGHT = 2.0
STUDENT = 4.0


@dataclass(frozen=True)
class Posterior:
    """Grid posterior over (θ, ρ).

    Attributes:
        theta: the grid of θ; a value may occur in several rows, of growths that differ otherwise.
        overhead: the grid of ρ.
        weight: [θ, ρ] probabilities, summing to 1.
        location: [θ, ρ] posterior mean of c.
        scale: [θ, ρ] posterior scale of ε.
        freedom: degrees of freedom of the Student-t of c and ε.
        effective: weighted number of points.
        point_weights: weight of each point, 1 for one in line with the others.
        log_evidence: log marginal likelihood, up to a constant shared by models on the same points.
    """

    theta: Array
    overhead: Array
    weight: Array
    location: Array
    scale: Array
    freedom: float
    effective: float
    point_weights: Array
    log_evidence: float

    def interval(self, level: float) -> tuple[float, float]:
        """Central credible interval of θ: no more than (1 − level)/2 of the probability on either side."""
        values, mass = self._marginal()
        below = np.concatenate([[0.0], np.cumsum(mass)])
        tail = (1 - level) / 2
        low = int(np.searchsorted(below, tail, side="right")) - 1
        high = int(np.searchsorted(below, 1 - tail, side="left")) - 1
        last = len(values) - 1
        return float(values[min(max(low, 0), last)]), float(values[min(max(high, 0), last)])

    @property
    def median(self) -> float:
        """Posterior median of θ."""
        values, mass = self._marginal()
        return float(values[min(int(np.searchsorted(np.cumsum(mass), 0.5)), len(values) - 1)])

    def _marginal(self) -> tuple[Array, Array]:
        values, row = np.unique(self.theta, return_inverse=True)
        mass: Array = np.bincount(row, self.weight.sum(axis=1)).astype(np.float64)
        return values, mass

    def at(self, row: int) -> tuple[int, int]:
        """Indices (row, ρ) of the most probable overhead in a row."""
        return row, int(np.argmax(self.weight[row]))

    def predictive(self, log_growth: Array, level: float, inflation: float = 1.0) -> tuple[float, float, float]:
        """Median and central interval of a new log y, where log g(x; θ) is ``log_growth`` [θ]; noise times inflation.

        The mixture over the grid of Student-t distributions, solved for its quantiles by bisection.
        """
        centre = self.location + np.log(self.overhead[None, :] + np.exp(log_growth)[:, None])
        keep = self.weight > 1e-4 * self.weight.max()
        w, m = self.weight[keep], centre[keep]
        s = inflation * self.scale[keep] * np.sqrt(1 + 1 / self.effective)
        w = w / w.sum()

        def quantile(p: float) -> float:
            low, high = float((m - 60 * s).min()), float((m + 60 * s).max())
            for _ in range(40):
                middle = (low + high) / 2
                if float(w @ special.stdtr(self.freedom, (middle - m) / s)) < p:
                    low = middle
                else:
                    high = middle
            return (low + high) / 2

        return quantile(0.5), quantile((1 - level) / 2), quantile((1 + level) / 2)

    def most_probable(self, log_growth: Array) -> float:
        """log y at the most probable grid point, where log g(x; θ) is ``log_growth`` [θ]."""
        i, j = np.unravel_index(int(np.argmax(self.weight)), self.weight.shape)
        return float(self.location[i, j] + np.log(self.overhead[j] + np.exp(log_growth[i])))

    def log_density(self, log_y: float, log_growth: Array) -> float:
        """Log predictive density of a new observation."""
        centre = self.location + np.log(self.overhead[None, :] + np.exp(log_growth)[:, None])
        s = self.scale * np.sqrt(1 + 1 / self.effective)
        density = _student((log_y - centre) / s, self.freedom) / s
        return float(np.log(max(float((self.weight * density).sum()), 1e-300)))


def posterior(
    log_y: Array,
    log_growth: Array,
    theta: Array,
    *,
    noise: float,
    overheads: Array = OVERHEADS,
    log_prior: Array | None = None,
    robust: bool = True,
) -> Posterior:
    """The grid posterior.

    Args:
        log_y: [points] logarithms of the observations.
        log_growth: [θ, points] log g(x; θ), 0 at the largest x.
        theta: [θ] the grid.
        noise: prior guess of the standard deviation of ε.
        overheads: [ρ] the grid of overheads; the prior is a quarter on ρ = 0, the rest log-uniform.
        log_prior: [θ] log prior of the rows; uniform where None.
        robust: weight outliers down.
    """
    residual = log_y - _shape(log_growth.tobytes(), log_growth.shape, overheads.tobytes())
    weights = _robust_weights(residual, noise) if robust and len(log_y) > 3 else np.ones_like(log_y)
    effective = float(weights.sum())
    location = (residual @ weights) / effective
    rss = ((residual - location[:, :, None]) ** 2) @ weights
    freedom = PRIOR_WEIGHT + effective - 1
    total = PRIOR_WEIGHT * noise**2 + rss
    of_overhead = np.zeros(len(overheads))
    if len(overheads) > 1:
        of_overhead[:] = np.log(0.75 / (len(overheads) - 1))
        of_overhead[0] = np.log(0.25)
    of_theta = np.full(len(theta), -np.log(len(theta))) if log_prior is None else log_prior
    log_post = -freedom / 2 * np.log(total) + of_overhead[None, :] + of_theta[:, None]
    top = float(log_post.max())
    mass = np.exp(log_post - top)
    # The normalisation that models on the same points with the same weights share is left out.
    return Posterior(
        theta,
        overheads,
        mass / mass.sum(),
        location,
        np.sqrt(total / freedom),
        freedom,
        effective,
        weights,
        top + float(np.log(mass.sum())),
    )


def _student(values: Array, freedom: float) -> Array:
    """Density of Student's t; scipy's own takes several times as long to prepare as to compute."""
    log_height = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    density: Array = np.exp(log_height - (freedom + 1) / 2 * np.log1p(values**2 / freedom))
    return density


@functools.lru_cache(maxsize=64)  # laws along the same sizes share it; an entry takes some hundred kilobytes
def _shape(log_growth: bytes, shape: tuple[int, int], overheads: bytes) -> Array:
    """[θ, ρ, points] log(ρ + g(x; θ))."""
    growth = np.frombuffer(log_growth).reshape(shape)
    made: Array = np.log(np.frombuffer(overheads)[None, :, None] + np.exp(growth)[:, None, :])
    return made


def _median(values: Array) -> Array:
    """The median along the last axis, which is kept; numpy's own costs twice as much where that axis is short."""
    ordered, half = np.sort(values, axis=-1), values.shape[-1] // 2
    if values.shape[-1] % 2:
        return ordered[..., half : half + 1]
    return (ordered[..., half - 1 : half] + ordered[..., half : half + 1]) / 2


def _robust_weights(residual: Array, noise: float) -> Array:
    """Student-t weights around the grid point of least absolute error, iterated to a fixed point."""
    centred = residual - _median(residual)
    i, j = np.unravel_index(int(np.argmin(np.abs(centred).sum(axis=2))), centred.shape[:2])
    best = centred[i, j]
    squared = centred**2
    weights: Array = np.ones(residual.shape[2])
    for _ in range(3):
        scale = max(1.4826 * float(_median(np.abs(best))[0]), noise / 2)
        weights = np.minimum(1.0, (STUDENT + 1) / (STUDENT + (best / scale) ** 2))
        # Points within two scales count fully: weighing them down too would bias the variance low.
        weights[np.abs(best) <= 2 * scale] = 1.0
        # Sums of squares about the location, from those about the median: no array of all points is made anew.
        total = float(weights.sum())
        location = (centred @ weights) / total
        rss = squared @ weights - total * location**2
        i, j = np.unravel_index(int(np.argmin(rss)), rss.shape)
        best = centred[i, j] - location[i, j]
    return weights

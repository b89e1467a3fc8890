"""Growth with the derivative order: polynomial, exponential or faster, decided on held-out orders.

Every model is fitted to the low orders and asked for the next one; the log density it gives to what was then
measured is its score (prequential evidence; Dawid 1984). All models have the same freedom (a scale, a shape,
an overhead, noise), so that none wins by flexibility.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hograd_bench.laws._outcomes import InsufficientData
from hograd_bench.laws._posterior import Array, Posterior, posterior
from hograd_bench.laws.fitted import LEVEL, Prediction

MIN_ORDERS = 4
_POWERS = np.arange(0.0, 8.01, 0.1)
# Below a quarter more an order an exponential cannot be told from a polynomial over a handful of orders.
MIN_BASE = 1.25
_BASES = np.arange(math.log(MIN_BASE), math.log(12.0), 0.03)
_OVERHEADS = np.concatenate([[0.0], np.geomspace(1e-3, 1e2, 16)])


@dataclass(frozen=True)
class Model:
    """A named growth: log g(k; θ) and the grid of θ."""

    formula: str
    family: str
    theta: Array
    log_growth: Callable[[Array, Array], Array]


_lgamma = np.vectorize(math.lgamma, otypes=[float])
MODELS: dict[str, Model] = {
    "power": Model("a + c·k^p", "polynomial", _POWERS, lambda k, t: t[:, None] * np.log(k)[None, :]),
    "exponential": Model("a + c·b^k", "exponential", _BASES, lambda k, t: t[:, None] * k[None, :]),
    "k times exponential": Model(
        "a + c·k·b^k", "exponential", _BASES, lambda k, t: t[:, None] * k[None, :] + np.log(k)[None, :]
    ),
    "factorial": Model(
        "a + c·k!·b^k",
        "factorial",
        np.arange(-1.5, 1.51, 0.05),
        lambda k, t: t[:, None] * k[None, :] + _lgamma(k + 1)[None, :],
    ),
}


@dataclass(frozen=True)
class OrderLaw:
    """How a metric grows with the order k.

    Attributes:
        metric: its name.
        family: the family with most evidence: "polynomial", "exponential" or "factorial".
        evidence: family -> share of the evidence on held-out orders.
        ratio: evidence of the best family over that of the runner-up.
        runner_up: the family that came second.
        base, base_low, base_high: growth factor an order under the exponential model, with interval.
        power, power_low, power_high: exponent under the polynomial model, with interval.
        level: credibility of the intervals.
        held_out: the orders that were predicted.
        surprise: family -> predicted over measured at the last order, of the family's best model.
        points: order -> value.
    """

    metric: str
    family: str
    evidence: dict[str, float]
    ratio: float
    runner_up: str
    base: float
    base_low: float
    base_high: float
    power: float
    power_low: float
    power_high: float
    level: float
    held_out: tuple[int, ...]
    surprise: dict[str, float]
    points: dict[int, float]
    noise: float

    @property
    def text(self) -> str:
        """Family, rate with interval, and the evidence against the runner-up, in one line."""
        values = list(self.points.values())
        if max(values) < MIN_BASE * min(values):
            rate = (
                f"changes by a factor {values[-1] / values[0]:.2f} from order {min(self.points)} to {max(self.points)}"
            )
        elif self.family == "polynomial":
            rate = f"grows like k^{self.power:.1f} [{self.power_low:.1f}, {self.power_high:.1f}]"
        else:
            faster = ", growing with k" if self.family == "factorial" else ""
            rate = f"grows by a factor {self.base:.2f} [{self.base_low:.2f}, {self.base_high:.2f}] an order{faster}"
        against = f"evidence {min(self.ratio, 1e9):.3g} : 1 over {self.runner_up}"
        held = ", ".join(map(str, self.held_out))
        return f"{self.metric} {rate}; {against} (orders {held} predicted from lower ones)"

    def predict(self, order: int, coverage: float = 0.9) -> Prediction:
        """The metric at an order, under the best family's simplest model.

        Raises:
            ValueError: the order is below 1.
        """
        if order < 1:
            raise ValueError(f"order: got {order}, expected an integer >= 1")
        name = {"polynomial": "power", "exponential": "exponential", "factorial": "factorial"}[self.family]
        model = MODELS[name]
        k = np.array(sorted(self.points), dtype=float)
        fit = _fit(model, k, np.log([self.points[int(v)] for v in k]), self.noise)
        middle, low, high = fit.predictive(_relative(model, np.array([float(order)]), k.max())[:, 0], coverage)
        return Prediction(float(np.exp(middle)), float(np.exp(low)), float(np.exp(high)), coverage)


def fit_orders(
    points: Mapping[int, float],
    *,
    metric: str = "y",
    noise: float = 0.05,
    level: float = LEVEL,
    first_orders: int = 0,
) -> OrderLaw | InsufficientData:
    """Which growth in the order predicts the orders that it was not shown.

    Args:
        points: order -> value; not finite or not positive values are missing measurements.
        metric: name for the text.
        noise: prior guess of the relative deviation from a law: 0.02 for counted metrics, whose law need not
            be any of the models exactly, 0.05 to 0.1 for times.
        level: credibility of the intervals of base and power.
        first_orders: orders up to this one are left out (their overhead differs in kind).

    Returns:
        The law, or InsufficientData: fewer than 4 consecutive orders.
    """
    clean = {k: float(v) for k, v in sorted(points.items()) if k > first_orders and math.isfinite(v) and v > 0}
    orders = list(clean)
    if len(orders) < MIN_ORDERS or orders != list(range(orders[0], orders[-1] + 1)):
        return InsufficientData(f"orders {orders}", f"at least {MIN_ORDERS} consecutive orders")
    k = np.array(orders, dtype=float)
    log_y = np.log(np.array(list(clean.values())))
    held = orders[-2:] if len(orders) > MIN_ORDERS else orders[-1:]
    scores: dict[str, float] = {}
    surprise: dict[str, float] = {}
    for name, model in MODELS.items():
        score = 0.0
        for order in held:
            known = k < order
            fit = _fit(model, k[known], log_y[known], noise)
            growth = _relative(model, np.array([float(order)]), k[known].max())[:, 0]
            target = float(log_y[orders.index(order)])
            score += fit.log_density(target, growth)
            if order == held[-1]:
                surprise[name] = math.exp(fit.most_probable(growth) - target)
        scores[name] = score
    top = max(scores.values())
    evidence: dict[str, float] = {}
    best_of: dict[str, str] = {}
    for name, score in scores.items():
        family = MODELS[name].family
        # A family's evidence is its best model's: more models in a family must not help it.
        value = math.exp(score - top)
        if value > evidence.get(family, -1.0):
            evidence[family], best_of[family] = value, name
    total = sum(evidence.values())
    evidence = {family: value / total for family, value in evidence.items()}
    ranked = sorted(evidence, key=lambda family: -evidence[family])
    base = _fit(MODELS["exponential"], k, log_y, noise)
    power = _fit(MODELS["power"], k, log_y, noise)
    base_low, base_high = base.interval(level)
    power_low, power_high = power.interval(level)
    return OrderLaw(
        metric=metric,
        family=ranked[0],
        evidence=evidence,
        ratio=evidence[ranked[0]] / max(evidence[ranked[1]], 1e-300),
        runner_up=ranked[1],
        base=math.exp(base.median),
        base_low=math.exp(base_low),
        base_high=math.exp(base_high),
        power=power.median,
        power_low=power_low,
        power_high=power_high,
        level=level,
        held_out=tuple(held),
        surprise={family: surprise[name] for family, name in best_of.items()},
        points=clean,
        noise=noise,
    )


def _relative(model: Model, k: Array, reference: float) -> Array:
    return model.log_growth(k, model.theta) - model.log_growth(np.array([reference]), model.theta)


def _fit(model: Model, k: Array, log_y: Array, noise: float) -> Posterior:
    growth = _relative(model, k, float(k.max()))
    return posterior(log_y, growth, model.theta, noise=noise, overheads=_OVERHEADS, robust=False)

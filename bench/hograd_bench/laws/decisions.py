"""A law against a limit: holds, refuted, or not decided. The one place where an interval becomes a verdict."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from hograd_bench.laws._outcomes import InsufficientData, NoExactLaw
from hograd_bench.laws.exact import ExactLaw
from hograd_bench.laws.fitted import FittedLaw
from hograd_bench.laws.orders import OrderLaw

Decision = Literal["holds", "refuted", "insufficient data"]
# How far an exponent may be off the limit and still be it: a logarithm, a cache step.
TOLERANCE = 0.25
# Sizes that must lie in the asymptotic regime before a bound can pass: overhead must not pass for slow growth.
MIN_REGIME = 3
# Odds at which held-out orders decide between families. Under the worse family the better one's predictive density
# is an e-value, so that odds of 30 against the truth come up at most once in 30 times (Ville's inequality); in the
# study of study.py they come up far less often.
EVIDENCE = 30.0


def rate(law: ExactLaw | FittedLaw, variable: str) -> tuple[float, float, float]:
    """(exponent, low, high) of the growth with a variable; an exact degree is its own interval."""
    if isinstance(law, ExactLaw):
        degree = float(law.degree(variable))
        return degree, degree, degree
    return law.exponent, law.low, law.high


def compare(
    low: float, high: float, limit: float, *, equal: bool = False, tolerance: float = TOLERANCE, settled: bool = True
) -> Decision:
    """An interval of an exponent against a limit.

    Args:
        low: lower end of the exponent's interval.
        high: upper end.
        limit: the exponent claimed.
        equal: whether growth like the limit is claimed (True), or growth at most like it (False).
        tolerance: slack on the limit; none is given where the interval is a point.
        settled: whether enough sizes lie in the asymptotic regime for a bound to pass.

    Returns:
        "holds" if the whole interval is where the claim puts it, "refuted" if the whole interval is not.
    """
    slack = 0.0 if low == high else tolerance
    if low > limit + slack or (equal and high < limit - slack):
        return "refuted"
    if settled and high <= limit + slack and (not equal or low >= limit - slack):
        return "holds"
    return "insufficient data"


def decide(
    law: ExactLaw | FittedLaw | InsufficientData | NoExactLaw,
    variable: str,
    limit: float,
    *,
    equal: bool = False,
    tolerance: float = TOLERANCE,
) -> Decision:
    """A law against a limit; see :func:`compare`. Without a law nothing is decided."""
    if isinstance(law, (InsufficientData, NoExactLaw)):
        return "insufficient data"
    _, low, high = rate(law, variable)
    return compare(low, high, limit, equal=equal, tolerance=tolerance, settled=is_settled(law))


def is_settled(law: ExactLaw | FittedLaw) -> bool:
    """Whether enough sizes are in the asymptotic regime; a law without overhead is there at every size."""
    return isinstance(law, ExactLaw) or law.overhead == 0 or len(law.regime) >= MIN_REGIME


def decide_family(law: OrderLaw | InsufficientData, accepted: Collection[str]) -> tuple[Decision, float, str]:
    """Growth in the order against the families that a claim accepts.

    Args:
        law: of fit_orders.
        accepted: names of families.

    Returns:
        The decision, the odds of the best accepted family over the best other one, and that other one's name.
    """
    if isinstance(law, InsufficientData):
        return "insufficient data", 1.0, ""
    inside = max((v for f, v in law.evidence.items() if f in accepted), default=0.0)
    outside, rival = max((v, f) for f, v in law.evidence.items() if f not in accepted)
    odds = inside / max(outside, 1e-300)
    if odds >= EVIDENCE:
        return "holds", odds, rival
    return ("refuted" if odds <= 1 / EVIDENCE else "insufficient data"), odds, rival

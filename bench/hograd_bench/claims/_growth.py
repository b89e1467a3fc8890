"""Rules on growth: with a size (exact degree or fitted exponent), and with the order."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from fractions import Fraction
from statistics import median
from typing import Any

import pandas as pd

from hograd_bench import units
from hograd_bench.claims._model import HOLDS, INSUFFICIENT, REFUTED, Finding, Part
from hograd_bench.claims._rule import Data, Rule
from hograd_bench.claims._series import (
    SIZES,
    cell_at,
    cell_ids,
    groups,
    line,
    measured_rows,
    noise_of,
    ok_rows,
    size_text,
    tuples,
    values_along,
)
from hograd_bench.laws import (
    ExactLaw,
    FittedLaw,
    InsufficientData,
    NoExactLaw,
    Recurrence,
    compare,
    find_recurrence,
    fit_exact,
    fit_orders,
    fit_power,
    is_exact,
    is_settled,
)
from hograd_bench.laws import (
    decide_family as family_decision,
)
from hograd_bench.laws.decisions import EVIDENCE, TOLERANCE
from hograd_bench.laws.decisions import rate as rate_of
from hograd_bench.laws.frames import ITEMSIZE, allows_overhead
from hograd_bench.laws.polynomial import SYMBOLS

BY = ("operator", "method", "problem")
# What repeats to the last digit, yet is no exact law (a deviation, say), misses its power by lower terms, not by noise.
COUNT_NOISE = 0.02
FLAT = 1.25
FAMILIES = ("polynomial", "exponential", "factorial")


def limit_of(part: Part, rows: pd.DataFrame) -> float:
    """The limit of a part; "order" is the order of the rows."""
    limit = part.parameters["limit"]
    return float(rows["order"].iloc[0]) if limit == "order" else float(limit)


def by_of(part: Part, rows: pd.DataFrame) -> tuple[str, ...]:
    """What groups the rows: where there are several orders, each is a case of its own."""
    return (*BY, "order") if part.parameters.get("limit") == "order" or rows["order"].nunique() > 1 else BY


def law_for(
    rows: pd.DataFrame, metric: str, variable: str, limit: float = 1.0
) -> ExactLaw | FittedLaw | InsufficientData:
    """The exact law in all sizes that vary, else the one along the variable, else the fitted one along it.

    Degrees and exponents are looked for up to one above the limit that they are compared with.
    """
    degree = max(3, math.ceil(limit) + 1)
    measured = measured_rows(rows, metric)
    if not len(measured):
        return InsufficientData(f"no row that is ok and has {metric}", f"{metric} on the cells of this part")
    along = line(rows, variable, metric)
    series = values_along(along, variable, metric)
    if is_exact(metric):
        unit = ITEMSIZE.get(str(measured["dtype"].iloc[0]), 1) if metric.endswith("_bytes") else 1
        for chosen in (measured, along):
            columns = [s for s in SIZES if s != "order"]
            values: dict[tuple[int, ...], float] = {}
            for *sizes, value in tuples(chosen, [*columns, metric]):
                values[tuple(int(s) for s in sizes)] = float(value)
            law = _exact(tuple(values.items()), tuple(columns), metric, unit, degree)
            if isinstance(law, ExactLaw) and variable in law.polynomial.variables:
                return law
    x = [float(s) for s, seen in series.items() for _ in seen]
    y = [v for seen in series.values() for v in seen]
    noise = noise_of(metric, along) or COUNT_NOISE
    symbol = SYMBOLS.get(variable, variable)
    return _power(tuple(x), tuple(y), metric, symbol, noise, allows_overhead(metric), degree + 1.0)


# Machines agree on counted metrics, and runs on most of what they repeat: of their laws each is sought once.
@functools.lru_cache(maxsize=2**14)
def _exact(
    values: tuple[tuple[tuple[int, ...], float], ...], variables: tuple[str, ...], metric: str, unit: int, degree: int
) -> ExactLaw | NoExactLaw | InsufficientData:
    return fit_exact(dict(values), variables, metric=metric, unit=unit, max_degree=degree)


@functools.lru_cache(maxsize=2**10)  # a fitted law keeps its posterior, a tenth of a megabyte
def _power(
    x: tuple[float, ...], y: tuple[float, ...], metric: str, symbol: str, noise: float, overhead: bool, highest: float
) -> FittedLaw | InsufficientData:
    return fit_power(x, y, metric=metric, variable=symbol, noise=noise, overhead=overhead, max_exponent=highest)


def decide_growth(part: Part, data: Data, *, equal: bool) -> list[Finding]:
    """One finding a group: does the metric grow with the variable as the limit says."""
    found = []
    for key, rows in groups(data.rows, by_of(part, data.rows)):
        # A group of which one size was ever tried (another thread count, say) belongs to some other sweep.
        if len(ok_rows(rows)) and rows[str(part.parameters["variable"])].nunique() > 1:
            found.append(_growth(part, data, key, rows, equal))
    return found


def _growth(part: Part, data: Data, key: Mapping[str, Any], rows: pd.DataFrame, equal: bool) -> Finding:
    variable, metric = str(part.parameters["variable"]), part.metric
    symbol = SYMBOLS.get(variable, variable)
    limit, tolerance = limit_of(part, rows), float(part.parameters.get("tolerance", TOLERANCE))
    law = law_for(rows, metric, variable, limit)
    along = line(rows, variable, metric)
    series = values_along(along, variable, metric)
    shown = tuple((f"{symbol}={x}", float(median(v))) for x, v in series.items())
    common: dict[str, Any] = {"cells": cell_ids(rows), "points": shown}
    if isinstance(law, InsufficientData):
        return Finding(part.id, key, INSUFFICIENT, str(law), **common)
    degree, low, high = rate_of(law, variable)
    text = law.text
    name = metric
    baseline = part.parameters.get("baseline")
    if baseline is not None:
        own = data.baseline(str(baseline)).like(rows)
        other = law_for(own, metric, variable)
        if isinstance(other, InsufficientData):
            return Finding(part.id, key, INSUFFICIENT, f"the baseline {baseline}: {other}", text, **common)
        theirs = rate_of(other, variable)
        degree, low, high = degree - theirs[0], low - theirs[2], high - theirs[1]
        text += f"; {baseline}: {other.text}"
        name = f"{metric} over that of {baseline}"
    exact = low == high
    settled = not allows_overhead(metric) or is_settled(law)
    outcome = str(compare(low, high, limit, equal=equal, tolerance=tolerance, settled=settled))
    power = f"{symbol}^{limit:g}"
    rate_text = (
        f"degree {degree:g} in {symbol}" if exact else f"exponent {degree:.2f} [{low:.2f}, {high:.2f}] in {symbol}"
    )
    subject = f"{law.formula} has" if isinstance(law, ExactLaw) and baseline is None else f"{name} has"
    relation = "as claimed" if equal else f"at most {limit:g}"
    reason = {
        HOLDS: f"{subject} {rate_text}, {relation}",
        REFUTED: f"{subject} {rate_text}, not {'at most ' if not equal else ''}{limit:g}",
        INSUFFICIENT: f"{subject} {rate_text}, which does not decide about {power}"
        + ("; overhead dominates all but the largest sizes" if not settled else ""),
    }[outcome]
    worst, lost = _anchored(shown, series, limit, symbol, metric) if baseline is None else ("", "")
    if worst:
        # Where the line runs: the other sizes, at which the law has other values.
        held = size_text({s: along[s].iloc[0] for s in SIZES if s in along and s != variable}, SIZES)
        worst += "" if held == "n=1" else f", {held}"
    if isinstance(law, FittedLaw):
        shares = ", ".join(f"{k} {v:.0%}" for k, v in sorted(law.evidence.items(), key=lambda i: -i[1])[:3])
        lost = f"evidence among named growths, overhead allowed: {shares}"
    return Finding(
        part.id, key, outcome, reason, text, None if exact else (low, high), degree, worst=worst, lost=lost,
        worst_cell=cell_at(along, [variable], (list(series)[-1],)) if worst else "", **common,
    )  # fmt: skip


def _anchored(
    shown: tuple[tuple[str, float], ...], series: Mapping[int, list[float]], limit: float, symbol: str, metric: str
) -> tuple[str, str]:
    """What the claimed power through the first point would give at the last, and what was measured."""
    x = list(series)
    if len(x) < 2 or shown[0][1] <= 0:
        return "", ""
    expected = shown[0][1] * (x[-1] / x[0]) ** limit
    first, last = shown[0], shown[-1]
    began, would, was = (units.full(metric, v) for v in (first[1], expected, last[1]))
    claimed = f"{symbol}^{limit:g} through {metric} = {began} at {first[0]} would be {would} at {last[0]}"
    return f"{metric} = {was} at {last[0]}", f"{claimed}, where {was} was measured"


def decide_family(part: Part, data: Data) -> list[Finding]:
    """One finding a group: does the metric grow with the order as a family of models says."""
    found = []
    accepted = list(part.parameters["expect"])
    unknown = [f for f in accepted if f not in FAMILIES]
    if unknown:
        raise ValueError(f"part {part.id}: got family {unknown[0]!r}, expected some of {', '.join(FAMILIES)}")
    for key, rows in groups(data.rows, BY):
        if not len(ok_rows(rows)):
            continue
        along = line(rows, "order", part.metric)
        series = {k: float(median(v)) for k, v in values_along(along, "order", part.metric).items()}
        noise = noise_of(part.metric, along) or COUNT_NOISE
        law = fit_orders(series, metric=part.metric, noise=noise)
        common: dict[str, Any] = {"cells": cell_ids(rows), "points": tuple((f"k={k}", v) for k, v in series.items())}
        if isinstance(law, InsufficientData):
            found.append(Finding(part.id, key, INSUFFICIENT, str(law), **common))
            continue
        decision, ratio, rival = family_decision(law, accepted)
        outcome, expected = str(decision), " or ".join(accepted)
        recurrence, said = _recurrence(rows, part.metric, series)
        text, growth = law.text + said, law.text.split(";")[0]
        if max(series.values()) < FLAT * min(series.values()):
            outcome = HOLDS if "polynomial" in accepted else REFUTED
            reason = f"{growth}: no growth to speak of"
        elif recurrence is not None:
            # An exact recurrence needs no odds: its largest root is the growth.
            family = "exponential" if recurrence.base > 1 + 1e-9 else "polynomial"
            outcome = HOLDS if family in accepted else REFUTED
            reason = f"{family} growth, exactly{said}"
        elif outcome != INSUFFICIENT:
            side = f"{expected} growth" if ratio > 1 else f"{rival} growth, not {expected},"
            weight = min(max(ratio, 1 / max(ratio, 1e-300)), 1e9)
            reason = f"{growth}: {side} predicts the held-out orders {weight:.3g} times better"
        else:
            reason = f"{expected} and {rival} growth predict the held-out orders about as well (odds {ratio:.2g} : 1)"
        surprise = law.surprise.get(rival if ratio > 1 else accepted[0], float("nan"))
        loser = rival if ratio > 1 else expected
        lost = f"{loser} growth predicts {surprise:.2f} times what was measured at the last order"
        rate = (law.base, law.base_low, law.base_high)
        if law.family == "polynomial":
            rate = (law.power, law.power_low, law.power_high)
        found.append(Finding(part.id, key, outcome, reason, text, (rate[1], rate[2]), rate[0], lost=lost, **common))
    return found


def _recurrence(rows: pd.DataFrame, metric: str, series: Mapping[int, float]) -> tuple[Recurrence | None, str]:
    """An exact recurrence over the orders: of the coefficients of T where laws in T give them, else of the values."""
    if not is_exact(metric):
        return None, ""
    text = ""
    coefficients = _links(rows, metric)
    for values, what in ((coefficients, "n-vectors per link of the chain"), (series, f"a = {metric}")):
        orders = sorted(values)
        if not orders or orders != list(range(orders[0], orders[-1] + 1)):
            continue
        numbers = ", ".join(f"{float(values[k]):.12g}" for k in orders)
        said = f"; {what}: {numbers} for k = {orders[0]} to {orders[-1]}"
        found = find_recurrence([Fraction(values[k]) for k in orders])
        if found is not None:
            tail = f" from k = {orders[0] + found.start} on" if found.start else ""
            return found, f"{said}: {found.formula}{tail}, base {found.base:.3f}"
        text = text or said
    return None, text if coefficients else ""


def _links(rows: pd.DataFrame, metric: str) -> dict[int, Fraction]:
    """Order -> n-vectors that a link of the chain costs, where every order has an exact law of degree 1 in T."""
    found: dict[int, Fraction] = {}
    for order in sorted(set(rows["order"].to_list())):
        one = rows[rows["order"] == order]
        if one["depth"].nunique() < 2:
            continue
        law = law_for(one, metric, "depth")
        if not isinstance(law, ExactLaw) or law.degree("depth") != 1:
            return {}
        slope = law.polynomial.coefficient("depth", 1)
        lead = max(slope.terms, key=lambda e: (sum(e), e))
        width = int(law.fixed.get("n", 1)) if "n" not in law.polynomial.variables else 1
        found[order] = slope.terms[lead] / law.unit / width
    return found


GROWTH_AT_MOST = Rule(
    "growth_at_most",
    ("variable", "limit"),
    ("tolerance", "baseline"),
    lambda part, data: decide_growth(part, data, equal=False),
    "holds where the exact degree, or the upper end of the exponent's interval, is at most the limit "
    f"(fitted: plus {TOLERANCE}, up to a logarithm); refuted where the degree, or the lower end, is above it",
)
GROWTH_EQUALS = Rule(
    "growth_equals",
    ("variable", "limit"),
    ("tolerance", "baseline"),
    lambda part, data: decide_growth(part, data, equal=True),
    "holds where the exact degree is the limit, or the exponent's interval lies within "
    f"{TOLERANCE} of it; refuted where the degree is another, or the interval lies outside",
)
FAMILY_IN_ORDER = Rule(
    "family_in_order",
    ("expect",),
    (),
    decide_family,
    "holds where growth in the expected family is exact (a confirmed recurrence over the orders) or "
    f"predicts held-out orders {EVIDENCE:g} times better than any other family, refuted where another does",
)

"""Rules on values: within bounds at every size, and the step from an order to the next."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from hograd_bench.claims._growth import BY
from hograd_bench.claims._model import HOLDS, INSUFFICIENT, PARTIAL, REFUTED, Finding, Part
from hograd_bench.claims._rule import Data, Rule
from hograd_bench.claims._series import (
    SIZES,
    Place,
    cell_at,
    cell_ids,
    groups,
    line,
    noise_of,
    number,
    ok_rows,
    size_text,
    tuples,
    values_along,
    where,
    with_denominator,
)

# Two-sided 99%: a value this many standard deviations off a bound is clearly off.
Z = 2.576
# Measurements of a noisy metric that must agree before they decide: a bad minute makes one outlier of any size.
LEAST_WITNESSES = 2


def decide_bounded(part: Part, data: Data) -> list[Finding]:
    """One finding a group: is the metric, over its denominator, within the bounds in every cell."""
    if "low" not in part.parameters and "high" not in part.parameters:
        raise ValueError(f"part {part.id}: got neither low nor high, expected at least one")
    low = float(part.parameters.get("low", -math.inf))
    high = float(part.parameters.get("high", math.inf))
    over = part.parameters.get("over")
    found = []
    for key, rows in groups(data.rows, BY):
        ok = ok_rows(rows)
        if not len(ok):
            continue
        ratio = _quotient(part, ok, data)
        there = [not math.isnan(r) for r in ratio]
        known = where(ok, there)
        what = part.metric if over is None else f"{part.metric} over {_denominator(str(over))}"
        if not len(known):
            why = part.metric if part.metric not in rows or rows[part.metric].isna().all() else what
            found.append(Finding(part.id, key, INSUFFICIENT, f"no row has {why}", cells=cell_ids(ok)))
            continue
        # The median over repeats of a cell; a counted metric is the same in all of them.
        at: dict[Place, list[float]] = {}
        for size, value in zip(tuples(known, SIZES), (r for r in ratio if not math.isnan(r)), strict=True):
            at.setdefault(size, []).append(value)
        merged = {size: float(median(at[size])) for size in sorted(at)}
        noise = noise_of(part.metric, known)
        margin, needed = math.exp(Z * noise), LEAST_WITNESSES if noise else 1
        sizes = [dict(zip(SIZES, s, strict=True)) for s in merged]
        shown = [size_text(s, SIZES) for s in sizes]
        values = list(merged.values())
        outside = [v > high * margin if v > high else v < low / margin for v in values]
        inside = [low * (margin if low > 0 else 1) <= v <= high / (margin if high > 0 else 1) for v in values]
        repeats = [len(seen) for _, seen in sorted(at.items())]
        witnesses = sum(n for n, out in zip(repeats, outside, strict=True) if out)
        deviation = [_excess(v, low, high) for v in values]
        worst = int(np.argmax(deviation))
        bounds = _bounds(low, high)
        spread = f"{min(values):.4g} to {max(values):.4g}"
        if sum(repeats) < needed or 0 < witnesses < needed:
            outcome = INSUFFICIENT
            seen = f"{values[worst]:.4g} at {shown[worst]}" if witnesses else spread
            reason = f"{what} is {seen}, from a single noisy measurement, which decides nothing ({bounds}; {spread})"
        elif any(outside) and any(inside):
            outcome = PARTIAL
            good = [s for s, fine in zip(shown, inside, strict=True) if fine]
            reason = f"{what} is {bounds} at {_listed(good)} but {values[worst]:.4g} at {shown[worst]}"
        elif any(outside):
            outcome = REFUTED
            reason = f"{what} is {values[worst]:.4g} at {shown[worst]}, not {bounds} (range {spread})"
        elif all(inside):
            outcome = HOLDS
            reason = f"{what} is {bounds} at all {len(values)} sizes (range {spread})"
        else:
            outcome = INSUFFICIENT
            reason = f"{what} is {spread}, too near to the bound ({bounds}) for the noise to decide"
        law = f"{what} from {spread}" if min(values) < max(values) else f"{what} = {values[0]:.4g} at every size"
        law += f", clear beyond a factor {margin:.2f}" if margin > 1 else ", exact"
        found.append(
            Finding(
                part.id,
                key,
                outcome,
                reason,
                law,
                (min(values), max(values)),
                values[worst],
                cell_ids(known),
                # The same value everywhere has no worst case.
                worst=f"{what} = {values[worst]:.4g} at {shown[worst]}" if min(values) < max(values) else "",
                excess=deviation[worst],
                points=tuple(zip(shown, values, strict=True)),
                worst_cell=cell_at(known, SIZES, list(merged)[worst]),
            )
        )
    return found


def _quotient(part: Part, ok: pd.DataFrame, data: Data) -> list[float]:
    if part.metric not in ok:
        return [math.nan] * len(ok)
    values = [number(v) for v in ok[part.metric]]
    over = part.parameters.get("over")
    if over is None:
        return values
    denominators = with_denominator(ok, data.baseline, part.metric, str(over), data.operations)
    return [number(v / d) if d > 0 else math.nan for v, d in zip(values, denominators, strict=True)]


def _excess(value: float, low: float, high: float) -> float:
    """How far a value is beyond the bounds, or how near to them (negative), on a log scale where it has one."""

    def gap(a: float, b: float) -> float:
        if math.isinf(b):
            return -math.inf
        return math.log(a / b) if a > 0 and b > 0 else a - b

    return max(gap(value, high), -gap(value, low) if not math.isinf(low) else -math.inf)


def _bounds(low: float, high: float) -> str:
    if math.isinf(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"


def _denominator(over: str) -> str:
    return {"eps": "the dtype's eps", "f": "operations of f"}.get(over, f"that of {over}" if "/" in over else over)


def _listed(items: list[str], most: int = 4) -> str:
    return "; ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def decide_step(part: Part, data: Data) -> list[Finding]:
    """One finding a group: does every order cost at least a factor more than the one before."""
    factor, first = float(part.parameters["factor"]), int(part.parameters.get("first", 1))
    found = []
    for key, rows in groups(data.rows, BY):
        if not len(ok_rows(rows)):
            continue
        along = line(rows, "order", part.metric)
        series = {k: float(median(v)) for k, v in values_along(along, "order", part.metric).items()}
        steps = {k: series[k + 1] / series[k] for k in series if k >= first and k + 1 in series and series[k] > 0}
        common: dict[str, Any] = {"cells": cell_ids(rows), "points": tuple((f"k={k}", v) for k, v in series.items())}
        if len(steps) < 2:
            text = f"{part.metric} at orders {sorted(series)}; two steps beyond order {first} are needed"
            found.append(Finding(part.id, key, INSUFFICIENT, text, **common))
            continue
        margin = math.exp(Z * noise_of(part.metric, along) * math.sqrt(2))
        least = min(steps, key=lambda k: steps[k])
        listed = ", ".join(f"{k}→{k + 1}: ×{step:.2f}" for k, step in steps.items())
        interval = (min(steps.values()), max(steps.values()))
        if all(step >= factor * margin for step in steps.values()):
            outcome, reason = HOLDS, f"every further order multiplies {part.metric} by at least {factor:g} ({listed})"
        elif steps[least] < factor / margin:
            outcome = REFUTED
            reason = f"order {least + 1} costs only {steps[least]:.2f} times order {least} in {part.metric} ({listed})"
        else:
            outcome, reason = INSUFFICIENT, f"steps of {part.metric} are too near to {factor:g} to decide ({listed})"
        found.append(
            Finding(
                part.id,
                key,
                outcome,
                reason,
                listed,
                interval,
                steps[least],
                worst=f"×{steps[least]:.2f} from order {least} to {least + 1}",
                excess=-steps[least],
                worst_cell=cell_at(along, ["order"], (least + 1,)),
                **common,
            )
        )
    return found


BOUNDED = Rule(
    "bounded",
    (),
    ("low", "high", "over"),
    decide_bounded,
    "holds where the value is within the bounds in every cell, refuted where it is clearly outside and nowhere "
    "clearly inside, partial where both occur; clearly: by more than the noise of a time (99%), in two measurements at "
    "least; exactly for counts",
)
STEP_AT_LEAST = Rule(
    "step_at_least",
    ("factor",),
    ("first",),
    decide_step,
    "holds where each order clearly costs at least the factor more than the one before, refuted where one clearly "
    "does not",
)

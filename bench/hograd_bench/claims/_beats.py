"""The rule on comparisons: does one way beat another, and from where on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hograd_bench.claims._model import HOLDS, INSUFFICIENT, PARTIAL, REFUTED, Finding, Part
from hograd_bench.claims._rule import Data, Rule
from hograd_bench.claims._series import (
    SIZES,
    Place,
    canonical,
    cell_at,
    cell_ids,
    groups,
    noise_of,
    ok_rows,
    tuples,
    values_along,
    where,
    widest,
)
from hograd_bench.laws import Crossover, InsufficientData, crossover
from hograd_bench.laws.polynomial import SYMBOLS

LEVEL = 0.99
KINDS = ("crosses", "crosses back", "first wins", "second wins", "several")


def decide_beats(part: Part, data: Data) -> list[Finding]:
    """One finding a problem (and pair): is the candidate's metric below the rivals'."""
    accept = set(part.parameters.get("accept", ["second wins"]))
    reject = set(part.parameters.get("reject", ["first wins"]))
    unknown = sorted((accept | reject) - set(KINDS))
    if unknown:
        raise ValueError(f"part {part.id}: got {unknown[0]!r}, expected some of {', '.join(KINDS)}")
    found = []
    orders = part.parameters.get("variable", "n") != "order" and data.rows["order"].nunique() > 1
    by = ("problem", "order") if orders else ("problem",)
    for key, rows in groups(data.rows, by):
        if rows[str(part.parameters.get("variable", "n"))].nunique() < 2:
            continue  # one size of a group belongs to some other sweep
        for candidates, rivals in _pairs(part, rows):
            finding = _compare(part, key, rows, candidates, rivals, accept, reject)
            if finding is not None:
                found.append(finding)
    return found


def _pairs(part: Part, rows: pd.DataFrame) -> list[tuple[list[str], list[str]]]:
    """(candidates, rivals) as operator/method names; "*" is every other one measured."""
    present = sorted({f"{o}/{m}" for o, m in zip(rows["operator"], rows["method"], strict=True)})

    def expand(names: Sequence[str]) -> list[str]:
        found = []
        for name in names:
            operator, _, method = name.partition("/")
            full = f"{canonical(operator)}/{method}"
            found += [p for p in present if p == full or (method == "*" and p.startswith(canonical(operator) + "/"))]
        return found

    pairs = []
    for candidate, rival in part.parameters["pairs"]:
        first = expand(candidate if isinstance(candidate, list) else [candidate])
        second = [r for r in expand(rival if isinstance(rival, list) else [rival]) if r not in first]
        pairs.append((first, second))
    return pairs


def _compare(
    part: Part,
    key: Mapping[str, Any],
    rows: pd.DataFrame,
    candidates: list[str],
    rivals: list[str],
    accept: set[str],
    reject: set[str],
) -> Finding | None:
    variable = str(part.parameters.get("variable", "n"))
    share = float(part.parameters.get("products_share", 0.0))
    times = float(part.parameters.get("times", 1.0))
    ok = ok_rows(rows) if part.metric in rows else rows.iloc[:0]
    if not candidates or not rivals or not len(ok):
        return None
    places = _places(ok, candidates + rivals)
    ways = {name: ok.iloc[at] for name, at in places.items()}
    used = ok.iloc[sorted(i for at in places.values() for i in at)]
    line_of = _fixed(used, variable)
    ours = _best(ways, candidates, variable, part.metric, line_of)
    theirs = _best(ways, rivals, variable, part.metric, line_of)
    first = {float(x): values for x, (_, values) in theirs.items()}
    # m products cost m times one: the comparison at m = share of n, or a fixed multiple.
    second = {float(x): [v * (share * x if share else times) for v in values] for x, (_, values) in ours.items()}
    result = crossover(first, second, noise=noise_of(part.metric, ok), level=LEVEL)
    names = {True: _label(candidates), False: _label(rivals)}
    group = {**key, "comparison": f"{names[True]} against {names[False]}"}
    if isinstance(result, InsufficientData):
        return Finding(part.id, group, INSUFFICIENT, str(result), cells=cell_ids(used))
    if result.kind in accept:
        outcome = HOLDS
    elif result.kind in reject:
        outcome = REFUTED
    else:
        outcome = INSUFFICIENT if result.kind == "tie" else PARTIAL
    ours_name = names[True] if not share else f"{share:g}·n times {names[True]}"
    if not share and times != 1:
        ours_name = f"{times:g} times {names[True]}"
    symbol = SYMBOLS.get(variable, variable)
    reason = f"by {part.metric}, {result.text(names[False], ours_name, symbol)}"
    even = {x: 1 / (r / (share * x if share else times)) for x, r in result.ratios.items()}
    details = ", ".join(f"{symbol}={int(x)}: {m:.3g}" for x, m in even.items())
    fastest = ", ".join(f"{symbol}={int(x)} {n.partition('/')[2]}" for x, (n, _) in theirs.items())
    worst_x = max(result.ratios, key=lambda x: result.ratios[x])
    return Finding(
        part.id,
        group,
        outcome,
        reason,
        f"{names[False]} / {names[True]} in {part.metric}: {details}"
        + (f"; break-even at that many products; clear beyond a factor {result.margin:.2f}" if share else ""),
        _interval(result),
        result.at if result.at is not None else even[worst_x],
        cell_ids(used),
        worst=f"{ours_name} takes {result.ratios[worst_x]:.3g} times {names[False]} at {symbol}={int(worst_x)}",
        lost=f"best of the others at each size: {fastest}" if len(rivals) > 1 else "",
        points=tuple((f"{symbol}={int(x)}", r) for x, r in result.ratios.items()),
        worst_cell=cell_at(ways[ours[int(worst_x)][0]], [variable, *_others(variable)], (int(worst_x), *line_of)),
    )


def _interval(result: Crossover) -> tuple[float, float] | None:
    if result.at is None:
        return None
    return (result.low if result.low is not None else 0.0, result.high if result.high is not None else float("inf"))


def _places(ok: pd.DataFrame, names: list[str]) -> dict[str, list[int]]:
    """Where the rows of each of the named ways are."""
    wanted = set(names)
    places: dict[str, list[int]] = {}
    for i, (operator, method) in enumerate(tuples(ok, ["operator", "method"])):
        if (name := f"{operator}/{method}") in wanted:
            places.setdefault(name, []).append(i)
    return places


def _others(variable: str) -> list[str]:
    return [s for s in SIZES if s != variable and not (s == "order" and variable != "order")]


def _fixed(used: pd.DataFrame, variable: str) -> Place:
    """The other sizes at which most values of the variable were measured by the methods compared."""
    others = _others(variable)
    return widest(zip(tuples(used, others), used[variable], strict=True), default=(1,) * len(others))


def _best(
    ways: Mapping[str, pd.DataFrame], names: list[str], variable: str, metric: str, fixed: Place
) -> dict[int, tuple[str, list[float]]]:
    """Size -> the least of the named ways there, and its measurements."""
    found: dict[int, tuple[str, list[float]]] = {}
    for name in names:
        if name not in ways:
            continue
        here = where(ways[name], (place == fixed for place in tuples(ways[name], _others(variable))))
        for x, values in values_along(here, variable, metric).items():
            if x not in found or min(values) < min(found[x][1]):
                found[x] = (name, values)
    return dict(sorted(found.items()))


def _label(names: list[str]) -> str:
    if len(names) == 1:
        return names[0].partition("/")[2]
    operators = {n.partition("/")[0] for n in names}
    return f"the best {'/'.join(sorted(operators))}"


BEATS = Rule(
    "beats",
    ("pairs",),
    ("variable", "accept", "reject", "times", "products_share"),
    decide_beats,
    "holds where the candidate is clearly below the rivals at every size, refuted where it is clearly above at "
    "every size (or as the part's accept and reject say), partial where they change places; a tie decides nothing",
)

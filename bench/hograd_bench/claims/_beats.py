"""The rule on comparisons: does one way beat another, and from where on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
        for pair in _pairs(part, rows):
            finding = _compare(part, key, rows, pair, accept, reject)
            if finding is not None:
                found.append(finding)
    return found


class _Pair(NamedTuple):
    """Candidates and rivals as operator/method names, and what each side is called."""

    candidates: list[str]
    rivals: list[str]
    ours: str
    theirs: str


def _pairs(part: Part, rows: pd.DataFrame) -> list[_Pair]:
    """What a part compares; "*" is every other method measured."""
    present = sorted({f"{o}/{m}" for o, m in zip(rows["operator"], rows["method"], strict=True)})

    def expand(names: Sequence[str]) -> list[str]:
        found = []
        for name in names:
            operator, _, method = name.partition("/")
            full = f"{canonical(operator)}/{method}"
            found += [p for p in present if p == full or (method == "*" and p.startswith(canonical(operator) + "/"))]
        return found

    pairs = []
    for pair in part.parameters["pairs"]:
        candidate, rival = (side if isinstance(side, list) else [side] for side in pair)
        first = expand(candidate)
        second = [r for r in expand(rival) if r not in first]
        alike = _operators(candidate) == _operators(rival)
        ours = f"the best of {', '.join(_methods(first))}" if alike else _best_of(candidate)
        theirs = "the best other method" if alike else _best_of(rival)
        pairs.append(_Pair(first, second, _only(first) or ours, _only(second) or theirs))
    return pairs


def _compare(
    part: Part,
    key: Mapping[str, Any],
    rows: pd.DataFrame,
    pair: _Pair,
    accept: set[str],
    reject: set[str],
) -> Finding | None:
    variable = str(part.parameters.get("variable", "n"))
    share = float(part.parameters.get("products_share", 0.0))
    times = float(part.parameters.get("times", 1.0))
    candidates, rivals, label, theirs_name = pair
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
    group = {**key, "comparison": f"{label} against {theirs_name}"}
    if isinstance(result, InsufficientData):
        return Finding(part.id, group, INSUFFICIENT, str(result), cells=cell_ids(used))
    if result.kind in accept:
        outcome = HOLDS
    elif result.kind in reject:
        outcome = REFUTED
    else:
        outcome = INSUFFICIENT if result.kind == "tie" else PARTIAL
    ours_name = label if not share else f"{share:g}·n times {label}"
    if not share and times != 1:
        ours_name = f"{times:g} times {label}"
    symbol = SYMBOLS.get(variable, variable)
    reason = f"by {part.metric}, {result.text(theirs_name, ours_name, symbol)}"
    even = {x: 1 / (r / (share * x if share else times)) for x, r in result.ratios.items()}

    def takes(x: float) -> str:
        return f"{ours_name} takes {result.ratios[x]:.3g} times what {theirs_name} takes at {symbol}={int(x)}"

    if share:
        law = f"{theirs_name} costs as much as {label} so many times: "
        law += ", ".join(f"{m:.3g} at {symbol}={int(x)}" for x, m in even.items())
        law += f"; clear beyond a factor {result.margin:.2f}"
    else:
        (least, _), *others = result.ratios.items()
        law = ", ".join([takes(least), *(f"{r:.3g} at {symbol}={int(x)}" for x, r in others)]) + f"; by {part.metric}"
    fastest = ", ".join(f"{symbol}={int(x)} {n.partition('/')[2]}" for x, (n, _) in theirs.items())
    worst_x = max(result.ratios, key=lambda x: result.ratios[x])
    return Finding(
        part.id,
        group,
        outcome,
        reason,
        law,
        _interval(result),
        result.at if result.at is not None else even[worst_x],
        cell_ids(used),
        worst=takes(worst_x),
        lost=f"best of the others at each size: {fastest}" if len(rivals) > 1 else "",
        points=tuple((f"{symbol}={int(x)}", r) for x, r in result.ratios.items()),
        excess=result.ratios[worst_x],
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


def _operators(named: Sequence[str]) -> set[str]:
    return {n.partition("/")[0] for n in named}


def _methods(named: Sequence[str]) -> list[str]:
    return [n.partition("/")[2] for n in named]


def _only(names: Sequence[str]) -> str:
    """The method where there is one, else ""."""
    return _methods(names)[0] if len(names) == 1 else ""


def _best_of(named: Sequence[str]) -> str:
    """By the short name that the claim gives an operator: ``the best hvp``."""
    return f"the best {' or '.join(sorted(_operators(named)))}".replace("_", " ")


BEATS = Rule(
    "beats",
    ("pairs",),
    ("variable", "accept", "reject", "times", "products_share"),
    decide_beats,
    "holds where the candidate is clearly below the rivals at every size, refuted where it is clearly above at "
    "every size (or as the part's accept and reject say), partial where they change places; a tie decides nothing",
)

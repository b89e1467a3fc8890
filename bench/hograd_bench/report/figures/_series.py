"""Rows -> the groups and lines that figures draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from hograd_bench.report import advice, text
from hograd_bench.report.data import ReportData, setting_of
from hograd_bench.report.palette import Look

SIZES = ("n", "order", "depth", "batch")
SETTING = ("dtype", "device", "threads", "preparation", "machine")
SYMBOLS = {"n": "n", "order": "k", "depth": "T", "batch": "B", "threads": "threads"}
MOST = 3
"""Pictures of a section at most; a page is for reading."""
FEW = 2
"""Of those that show every method at a size."""


def by_way(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with their methods and preparations in words, in a column ``way``."""
    return rows.assign(way=[advice.way(m, p) for m, p in zip(rows["method"], rows["preparation"], strict=True)])


def looks_of(data: ReportData, rows: pd.DataFrame) -> dict[str, Look]:
    """The look of each way: its method's."""
    return {str(way): data.palette[method] for way, method in zip(rows["way"], rows["method"], strict=True)}


def groups(rows: pd.DataFrame, variable: str, least: int = 3) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Rows that differ in method and the variable alone, where that takes at least ``least`` values.

    The richest first, at most :data:`MOST`; of several settings of the other sizes, that with the most points.
    """
    fixed = ["operator", "problem", *(s for s in (*SIZES, *SETTING) if s != variable)]
    found: dict[tuple[Any, ...], tuple[dict[str, Any], pd.DataFrame]] = {}
    for named, part in swept(rows, fixed, "method", variable, least):
        where = tuple(named.get(c) for c in ("operator", "problem", "order", *SETTING))
        if where not in found or len(part) > len(found[where][1]):
            found[where] = (named, part)
    ranked = sorted(found.values(), key=lambda item: -len(item[1]))
    # The richest of each operator and problem before the second of any.
    seen: dict[tuple[Any, Any], int] = {}
    rank = []
    for named, _ in ranked:
        pair = (named["operator"], named["problem"])
        rank.append(seen.get(pair, 0))
        seen[pair] = rank[-1] + 1
    order = sorted(range(len(ranked)), key=lambda i: rank[i])[:MOST]
    return [ranked[i] for i in order]


def swept(
    rows: pd.DataFrame, fixed: Sequence[str], by: str, variable: str, least: int
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Rows that agree in ``fixed``, where some line (a value of ``by``) has ``least`` values of the variable or more;
    of them the lines that have two. In ascending order of ``fixed``.

    Of thousands of groups a few are swept, so that only those are cut from the frame.
    """
    places: dict[tuple[Any, ...], list[int]] = {}
    for i, key in enumerate(zip(*(rows[c].to_list() for c in fixed), strict=True)):
        places.setdefault(key, []).append(i)
    lines_of, values = rows[by].to_list(), rows[variable].to_list()
    for key in sorted(places):
        spans: dict[Any, set[Any]] = {}
        for i in places[key]:
            spans.setdefault(lines_of[i], set()).add(values[i])
        if max(map(len, spans.values())) >= least:
            kept = [i for i in places[key] if len(spans[lines_of[i]]) >= min(2, least)]
            yield dict(zip(fixed, key, strict=True)), rows.iloc[kept]


def rivals(rows: pd.DataFrame, least: int) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Rows of one operator, problem, order and setting that ``least`` methods or more share, the richest first."""
    fixed = ["operator", "problem", "order", *SETTING]
    several = rows.groupby(fixed, observed=True)["method"].transform("nunique") >= least
    groups = rows[several].groupby(fixed, observed=True, sort=True)
    return sorted(
        ((dict(zip(fixed, key, strict=True)), part) for key, part in groups),
        key=lambda item: -len(item[1]),
    )


def at_largest(rows: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """:func:`rivals` of two methods or more, each at the largest size that most of its methods reached."""
    sizes = ["n", "depth", "batch"]
    for named, part in rivals(rows, 2):
        counts = part.groupby(sizes, observed=True)["method"].nunique()
        size = counts[counts == counts.max()].index[-1]
        yield named, part[(part[sizes] == list(size)).all(axis=1)]


def keys_of(named: dict[str, Any], data: ReportData, *, but: Sequence[str] = ()) -> dict[str, str]:
    """The facets of a group by which a reader chooses it."""
    order = named.get("order")
    keys = {
        "operator": text.operator_name(named["operator"], order),
        "problem": text.clean(named["problem"], 40),
        "order": "" if order is None else f"{order}",
        "setting": setting_of(named, data.telling),
    }
    return {k: v for k, v in keys.items() if v and k not in but}


def title_of(named: dict[str, Any], variable: str) -> str:
    """A group in words: ``Hessian of mlp, k = 2``."""
    order = named.get("order")
    sizes = [
        f"{SYMBOLS[s]} = {named[s]}" for s in SIZES if s != variable and s in named and (named[s] != 1 or s == "n")
    ]
    words = f"{text.operator_name(named['operator'], order)} of {text.clean(named['problem'], 40)}"
    return ", ".join([words, *sizes])


def lines(part: pd.DataFrame, variable: str, by: str = "method") -> Iterator[tuple[str, pd.DataFrame]]:
    """Each method's rows in ascending order of the variable."""
    for name, line in part.groupby(by, observed=True, sort=True):
        yield str(name), line.sort_values(variable, kind="stable")

"""Rows -> the groups and lines that figures draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from hograd_bench.report import text
from hograd_bench.report.shown import Shown, setting_of

SIZES = ("n", "order", "depth", "batch")
SETTING = ("dtype", "device", "threads", "preparation", "machine")
SYMBOLS = {"n": "n", "order": "k", "depth": "T", "batch": "B", "threads": "threads"}
MOST = 8
"""Pictures of a section at most; a page is for reading."""


def groups(rows: pd.DataFrame, variable: str, least: int = 3) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Rows that differ in method and the variable alone, where that takes at least ``least`` values.

    The richest first, at most :data:`MOST`; of several settings of the other sizes, that with the most points.
    """
    fixed = ["operator", "problem", *(s for s in (*SIZES, *SETTING) if s != variable)]
    found: dict[tuple[Any, ...], tuple[dict[str, Any], pd.DataFrame]] = {}
    for key, part in rows.groupby(fixed, observed=True, sort=True):
        spans = part.groupby("method")[variable].nunique()
        if spans.max() < least:
            continue
        part = part[part["method"].isin(spans[spans >= min(2, least)].index)]
        named = dict(zip(fixed, key, strict=True))
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


def keys_of(named: dict[str, Any], shown: Shown, *, but: Sequence[str] = ()) -> dict[str, str]:
    """The facets of a group by which a reader chooses it."""
    order = named.get("order")
    keys = {
        "operator": text.operator_name(named["operator"], order),
        "problem": text.clean(named["problem"], 40),
        "order": "" if order is None else f"{order}",
        "setting": setting_of(named, shown.ok),
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

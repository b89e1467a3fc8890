"""What a run measured, as a table for people: methods side by side, at most a screen or so of lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from rich.table import Table
from rich.text import Text

from hograd_bench import units
from hograd_bench.facts import alias
from hograd_bench.schema import visible

MOST = 40
_FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "time": ("seconds_min", units.seconds),
    "gradients": ("gradient_equivalents", units.figures),
    "peak": ("peak_bytes", units.binary),
    "error": ("relative_error", lambda value: f"{value:.1e}"),
}
_WHAT = ("operator", "order", "problem")
_HOW = ("dtype", "device", "threads", "preparation")
_SIZES = ("n", "depth", "batch")


def table(rows: pd.DataFrame) -> Table | None:
    """A line a cell where they are few, else a line for several, with the range of each figure; None: nothing ran.

    Args:
        rows: the rows of a run, as ``store`` makes them.
    """
    tried = rows[rows["status"] != "skipped"]
    if tried.empty:
        return None
    varying = [name for name in (*_HOW, *_SIZES) if tried[name].nunique() > 1]
    choices = ((*_WHAT, *varying, "method"), (*_WHAT, *(n for n in varying if n in _HOW), "method"), (*_WHAT, "method"))
    # Never fewer than a line an operator and method, however many these are.
    by = next((keys for keys in choices if tried.groupby(list(keys)).ngroups <= MOST), ("operator", "order", "method"))
    groups = [group for _, group in tried.groupby(list(by), sort=False)]
    figures = {head: of for head, of in _FIGURES.items() if of[0] in tried and tried[of[0]].notna().any()}
    counted = any(len(group) > 1 or group["status"].iloc[0] != "ok" for group in groups)
    orders = tried.groupby("operator")["order"].nunique().max() > 1
    shown = [name for name in by if name != "order" or orders]
    made = Table(*shown, *(["cells"] if counted else []), *figures, title="What was measured", title_justify="left")
    for group in sorted(groups, key=lambda group: _place(group, shown)):
        first = group.iloc[0]
        words = [alias(first["operator"], first["order"]) if name == "operator" else str(first[name]) for name in shown]
        ended = [f"{count} {status}" if len(group) > 1 else str(status) for status, count in _counts(group)]
        ok = group[group["status"] == "ok"]
        values = [_range(ok[column].dropna(), said) for column, said in figures.values()]
        made.add_row(*(Text(visible(text)) for text in (*words, *([", ".join(ended)] if counted else []), *values)))
    return made


def _place(group: pd.DataFrame, shown: Sequence[str]) -> tuple[object, ...]:
    """Same things together, sizes upward, the fastest method first."""
    first = group.iloc[0]
    time = group["seconds_min"].min() if "seconds_min" in group else 0.0
    return (*(first[name] for name in shown if name != "method"), time != time, time)


def _counts(group: pd.DataFrame) -> list[tuple[str, int]]:
    return [(str(status), int(count)) for status, count in group["status"].value_counts().items()]


def _range(values: pd.Series[float], said: Callable[[float], str]) -> str:
    if values.empty:
        return "–"
    ends = dict.fromkeys((said(float(values.min())), said(float(values.max()))))
    return " … ".join(ends)

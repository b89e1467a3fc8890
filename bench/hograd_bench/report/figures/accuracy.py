"""Relative error to the float64 truth, by method and dtype."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from hograd_bench.report import style, text
from hograd_bench.report.figures._contract import Drawn, panel, slug
from hograd_bench.report.figures._series import MOST
from hograd_bench.report.palette import ordinal
from hograd_bench.report.shown import Shown, numbers

ORDER = 100
TITLE = "Accuracy"
ABOUT = (
    "Relative error of every cell to an independent float64 result at the same rounded input. Dashed: half a unit of "
    "rounding of each dtype. Cells that agree to the last digit stand at the left edge."
)
_EPS = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
_FLOOR = 1e-18


def draw(shown: Shown) -> Iterator[Drawn]:
    """One picture an operator and order."""
    rows = shown.ok.assign(error=numbers(shown.ok, "relative_error"))
    rows = rows[rows["error"].notna()]
    ranked = sorted(
        rows.groupby(["operator", "order"], observed=True), key=lambda i: (-i[1]["dtype"].nunique(), -len(i[1]))
    )
    dtypes = sorted(rows["dtype"].unique(), key=lambda d: _EPS.get(d, 1.0))
    for number, (_, part) in enumerate(ranked[:MOST]):
        operator, order = str(part["operator"].iloc[0]), int(part["order"].iloc[0])
        name = f"accuracy-{number}-{slug(operator)}"
        words = text.operator_name(str(operator), int(order))
        keys = {"operator": words, "order": str(order)}
        yield Drawn(
            name, f"{words}, k = {order}", keys, [_panel(shown, part, dtypes, f"{words}, k = {order}", f"{name}-0")]
        )


def _panel(shown: Shown, part: pd.DataFrame, dtypes: list[str], title: str, name: str) -> str:
    methods = sorted(part["method"].unique(), reverse=True)
    figure, axes = style.canvas(7.2, 0.85 + 0.29 * len(methods), left=0.25, right=0.97, top=0.3)
    present = [d for d in dtypes if d in set(part["dtype"])]
    said = []
    for at, method in enumerate(methods):
        for dtype in present:
            cells = part[(part["method"] == method) & (part["dtype"] == dtype)]
            if cells.empty:
                continue
            x = cells["error"].clip(lower=_FLOOR).to_list()
            y = [at + 0.2 * ((7 * i) % 11 / 5 - 1) for i in range(len(x))]
            style.points(axes, x, y, ordinal(dtypes.index(dtype)), cells["anchor"].to_list(), 16)
            said.append(f"{method} in {dtype}: at most {cells['error'].max():.2g}")
    axes.set_xscale("log")
    axes.set_yticks(range(len(methods)), [text.clean(m, 24) for m in methods])
    for label, method in zip(axes.get_yticklabels(), methods, strict=True):
        label.set_color(shown.palette[method].colour)
    axes.set_ylim(-0.6, len(methods) - 0.4)
    low, high = axes.get_xlim()
    for dtype in present:
        eps = _EPS.get(dtype)
        if eps:
            axes.axvline(eps, color=ordinal(dtypes.index(dtype)).colour, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            low, high = min(low, eps / 4), max(high, eps * 4)
    axes.set_xlim(low, high)
    style.powers(axes, "x", "")
    axes.set_xlabel("relative error")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    style.key_above(figure, axes, [(d, ordinal(dtypes.index(d))) for d in present], "")
    return panel(figure, name, f"Relative error of {title}. " + "; ".join(said))

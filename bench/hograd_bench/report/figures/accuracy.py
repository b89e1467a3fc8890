"""Relative error to the float64 truth, by method and dtype."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, numbers
from hograd_bench.report.figures._contract import Drawn, panel, slug
from hograd_bench.report.figures._series import FEW, by_way, looks_of
from hograd_bench.report.palette import Look, ordinal

ORDER = 100
TITLE = "Accuracy"
ABOUT = (
    "Relative error of every cell to an independent float64 result at the same rounded input. Dashed: half a unit of "
    "rounding of each dtype. Cells that agree to the last digit stand at the left edge."
)
_EPS = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
_FLOOR = 1e-18


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture an operator and order."""
    rows = data.ok.assign(error=numbers(data.ok, "relative_error"))
    rows = by_way(rows[rows["error"].notna()])
    ranked = sorted(
        rows.groupby(["operator", "order"], observed=True), key=lambda i: (-i[1]["dtype"].nunique(), -len(i[1]))
    )
    dtypes = sorted(rows["dtype"].unique(), key=lambda d: _EPS.get(d, 1.0))
    for number, (_, part) in enumerate(ranked[:FEW]):
        operator, order = str(part["operator"].iloc[0]), int(part["order"].iloc[0])
        name = f"accuracy-{number}-{slug(operator)}"
        words = text.operator_name(str(operator), int(order))
        keys = {"operator": words, "order": str(order)}
        yield Drawn(
            name, f"{words}, k = {order}", keys, [_panel(data, part, dtypes, f"{words}, k = {order}", f"{name}-0")]
        )


def _panel(data: ReportData, part: pd.DataFrame, dtypes: list[str], title: str, name: str) -> str:
    ways, of_method = sorted(part["way"].unique(), reverse=True), looks_of(data, part)
    figure, axes = style.canvas(7.2, 0.85 + 0.29 * len(ways), left=0.29, right=0.97, top=0.3)
    present = [d for d in dtypes if d in set(part["dtype"])]
    looks = {dtype: ordinal(dtypes.index(dtype)) for dtype in present}
    style.strips(axes, part.assign(error=part["error"].clip(lower=_FLOOR)), "error", "way", ways, looks, "dtype")
    for label, way in zip(axes.get_yticklabels(), ways, strict=True):
        label.set_color(of_method[way].colour)
    worst = part.groupby(["way", "dtype"], observed=True, as_index=False)["error"].max()
    said = [f"{row.way} in {row.dtype}: at most {row.error:.2g}" for row in worst.itertuples()]
    low, high = axes.get_xlim()
    for dtype in present:
        eps = _EPS.get(dtype)
        if eps:
            style.limit(axes, eps, colour=looks[dtype].colour)
            low, high = min(low, eps / 4), max(high, eps * 4)
    axes.set_xlim(low, high)
    style.ticks(axes, "x", "{:g}".format)
    axes.set_xlabel("relative error")
    style.key(axes, {dtype: Look(look.index, "o") for dtype, look in looks.items()})
    return panel(figure, name, f"Relative error of {title}. " + "; ".join(said))

"""Time against memory, a panel a size: which methods nothing beats in both."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from hograd_bench import units
from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn, panel, slug
from hograd_bench.report.figures._series import FEW, keys_of, rivals

ORDER = 70
TITLE = "Time against memory"
ABOUT = (
    "Left and down is better. The line joins the methods that no other beats in both time and memory; a method off "
    "the line is beaten in both by some method on it."
)
_SIZES = ["n", "depth", "batch"]


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture an operator, problem and order: its smallest and largest size."""
    rows = positive(data.ok, "seconds_min", "peak_bytes")
    for number, (named, part) in enumerate(rivals(rows, 3)[:FEW]):
        sizes = part.groupby(_SIZES, observed=True)["method"].nunique()
        usable = sorted(sizes[sizes >= 3].index)
        if not usable:
            continue
        name = f"pareto-{number}-{slug(named['operator'], named['problem'])}"
        panels: list[str] = []
        for size in dict.fromkeys((usable[0], usable[-1])):
            here = part[(part[_SIZES] == list(size)).all(axis=1)]
            panels.append(_panel(data, here, f"{name}-{len(panels)}"))
        title = f"{text.operator_name(named['operator'], named['order'])} of {text.clean(named['problem'], 40)}"
        yield Drawn(name, f"{title}, k = {named['order']}", keys_of(named, data), panels)


def front(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other row beats in both seconds_min and peak_bytes, by ascending memory."""
    ordered = rows.sort_values(["peak_bytes", "seconds_min"], kind="stable")
    best = ordered["seconds_min"].cummin().shift(fill_value=float("inf"))
    on: pd.DataFrame = ordered[ordered["seconds_min"] < best]
    return on


def _panel(data: ReportData, here: pd.DataFrame, name: str) -> str:
    figure, axes = style.canvas()
    on = front(here)
    axes.plot(on["peak_bytes"], on["seconds_min"], color=style.INK, linewidth=0.8, zorder=1, drawstyle="steps-post")
    drawn, ends = [], []
    for method, cells in here.groupby("method", observed=True, sort=True):
        look = data.palette[str(method)]
        drawn.append(style.Series(cells, look))
        ends.append((str(method), cells["seconds_min"].min(), look))
    style.points(axes, drawn, "peak_bytes", "seconds_min", 42)
    axes.set(xscale="log", yscale="log", xlabel="peak bytes")
    axes.margins(0.08)
    style.values(axes, "seconds_min")
    style.values(axes, "peak_bytes", "x")
    style.heading(axes, f"Time of a call, {text.sizes(here.iloc[0])}")
    style.label_ends(axes, ends)
    names = ", ".join(
        f"{r['method']} ({units.seconds(r['seconds_min'])}, {units.binary(r['peak_bytes'])})"
        for r in on.to_dict("records")
    )
    return panel(figure, name, f"Time against peak bytes, {text.sizes(here.iloc[0])}. Nothing beats {names}.")

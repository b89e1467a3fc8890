"""The fastest method for each dimension and memory budget."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from hograd_bench import units
from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn, panel, slug
from hograd_bench.report.figures._series import MOST, groups, keys_of
from hograd_bench.report.figures.pareto import front
from hograd_bench.report.palette import Look

ORDER = 75
TITLE = "The best method, by dimension and memory budget"
ABOUT = (
    "Find your dimension below and your budget at the side: the colour there is the fastest method whose peak stays "
    "within the budget. Below the lowest block nothing fits. Borders are exact peaks, not a grid. "
    "Approximations are left out."
)
_ROOM = 4.0  # how far above the highest peak the map goes on: more memory changes nothing there


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture a group of several methods that was swept over the dimension."""
    rows = positive(data.exact, "seconds_min", "peak_bytes")
    number = 0
    for named, part in groups(rows, "n", 2):
        if part["method"].nunique() < 2 or number >= MOST:
            continue
        name = f"best-{number}-{slug(named['operator'], named['problem'])}"
        title = f"{text.operator_name(named['operator'], named['order'])} of {text.clean(named['problem'], 40)}"
        yield Drawn(name, f"{title}, k = {named['order']}", keys_of(named, data), [_map(data, part, f"{name}-0")])
        number += 1


def _map(data: ReportData, part: pd.DataFrame, name: str) -> str:
    sizes = sorted(part["n"].unique())
    figure, axes = style.canvas(7.2, 3.6, right=0.78)
    top = part["peak_bytes"].max() * _ROOM
    ends: dict[str, tuple[str, float, Look]] = {}
    blocks, said = [], []
    for i, n in enumerate(sizes):
        on = front(part[part["n"] == n])[["method", "peak_bytes", "anchor"]].to_dict("records")
        for place, row in enumerate(on):
            high = on[place + 1]["peak_bytes"] if place + 1 < len(on) else top
            look = data.palette[row["method"]]
            bottom = row["peak_bytes"]
            blocks.append((i, high - bottom, bottom, look.colour, f"#{row['anchor']}" if row["anchor"] else None))
            ends[row["method"]] = (row["method"], (bottom * high) ** 0.5, Look(look.index, "s"))
        said.append(f"n = {n}: " + ", ".join(f"{r['method']} from {units.binary(r['peak_bytes'])}" for r in on))
    at, heights, bottoms, colours, urls = zip(*blocks, strict=True)
    bars = axes.bar(at, heights, 0.94, bottoms, color=colours, alpha=0.82, linewidth=0)
    for bar, url in zip(bars, urls, strict=True):
        bar.set_url(url)
    axes.set(xlabel="n", xlim=(-0.55, len(sizes) - 0.45), yscale="log", ylim=(part["peak_bytes"].min() / 2, top))
    style.named_ticks(axes, range(len(sizes)), [f"{n:,}" for n in sizes])
    style.values(axes, "peak_bytes")
    style.heading(axes, "Memory budget")
    style.label_ends(axes, ends.values())
    return panel(figure, name, "The fastest method within a memory budget. " + "; ".join(said))

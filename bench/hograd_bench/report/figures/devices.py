"""The same cells on several devices or machines, side by side."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from hograd_bench.report import style, text
from hograd_bench.report.figures._contract import Drawn, panel, slug
from hograd_bench.report.figures._series import MOST, keys_of
from hograd_bench.report.shown import Shown, positive

ORDER = 110
TITLE = "Devices side by side"
ABOUT = (
    "The same cell on every machine and device it was measured on: time of a call, a line a method. Where the lines "
    "of a pair of devices cross, it depends on the method which device is faster."
)
_CELL = ["operator", "problem", "order", "n", "depth", "batch", "dtype", "threads", "preparation"]


def draw(shown: Shown) -> Iterator[Drawn]:
    """One picture a group of cells that differ in method and device alone; nothing where there is one device."""
    rows = positive(shown.ok, "seconds_min")
    several = rows["machine"].nunique() > 1
    where = rows["machine"].map(lambda m: text.clean(m, 26)) + " " if several else ""
    rows = rows.assign(where=where + rows["device"].map(lambda d: text.clean(d, 12)))
    if rows["where"].nunique() < 2:
        return
    # Threads are the CPU's; a GPU's cell has its own number of them.
    ranked = []
    for key, part in rows.groupby(_CELL, observed=True, sort=True):
        shared = part.groupby("method", observed=True)["where"].nunique()
        part = part[part["method"].isin(shared[shared > 1].index)]
        if not part.empty:
            ranked.append((dict(zip(_CELL, key, strict=True)), part))
    ranked.sort(key=lambda item: (-item[1]["where"].nunique(), -len(item[1]), -item[0]["n"]))
    for number, (named, part) in enumerate(ranked[:MOST]):
        name = f"devices-{number}-{slug(named['operator'], named['problem'])}"
        title = f"{text.operator_name(named['operator'], named['order'])} of {text.clean(named['problem'], 40)}, "
        keys = {**keys_of(named, shown), "n": str(named["n"])}
        yield Drawn(name, title + text.sizes(part.iloc[0]), keys, [_panel(shown, part, f"{name}-0")])


def _panel(shown: Shown, part: pd.DataFrame, name: str) -> str:
    places = sorted(part["where"].unique())
    figure, axes = style.canvas(6.4, 3.6, right=0.72)
    ends, said = {}, []
    for method, cells in part.groupby("method", observed=True, sort=True):
        best = cells.sort_values("seconds_min").drop_duplicates("where").sort_values("where")
        look = shown.palette[str(method)]
        x = [float(places.index(w)) for w in best["where"]]
        y = best["seconds_min"].to_list()
        axes.plot(x, y, color=look.colour, linewidth=1)
        style.points(axes, x, y, look, best["anchor"].to_list())
        ends[str(method)] = (x[-1], y[-1], look.colour)
        said.append(f"{method}: " + ", ".join(f"{w} {text.seconds(v)}" for w, v in zip(best["where"], y, strict=True)))
    axes.set_xticks(range(len(places)), places)
    axes.set_xlim(-0.15, len(places) - 0.85)
    style.values(axes, "seconds_min")
    style.heading(axes, "Time of a call")
    style.label_ends(axes, ends)
    return panel(figure, name, "Time by device. " + "; ".join(said))

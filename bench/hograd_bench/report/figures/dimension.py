"""Time and bytes against the dimension, one line a method."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import pandas as pd

from hograd_bench.report.figures._contract import Drawn
from hograd_bench.report.style import label_ends, looks

ORDER = 20
TITLE = "Time and bytes against the dimension"
ABOUT = (
    "Each method of an operator on one problem at one order. Left: the fastest round of a warm call. "
    "Right: its peak allocator bytes. Both axes are logarithmic: n doubles, and slope one is proportional to n."
)

_PANELS = (("seconds_min", "seconds"), ("peak_bytes", "peak bytes"))
_GROUP = ["operator", "problem", "order", "depth", "batch", "dtype", "device", "threads"]


def draw(rows: pd.DataFrame) -> Iterator[Drawn]:
    """One picture a group that was swept over at least three dimensions."""
    panels = [panel for panel in _PANELS if panel[0] in rows]
    for key, part in rows.groupby(_GROUP, observed=True):
        named = dict(zip(_GROUP, key, strict=True))
        shown = [(c, label) for c, label in panels if part.dropna(subset=[c])["n"].nunique() >= 3]
        if not shown:
            continue
        look = looks(rows.loc[rows["operator"] == named["operator"], "method"])
        figure, grid = plt.subplots(1, len(shown), figsize=(5.4 * len(shown), 3.9), squeeze=False, layout="constrained")
        said = []
        for axes, (column, label) in zip(grid[0], shown, strict=True):
            axes.set(xscale="log", yscale="log", xlabel="n", ylabel=label)
            lines = {}
            for method, line in part.dropna(subset=[column]).groupby("method", observed=True):
                line = line.sort_values("n")
                colour, marker = look[method]
                (lines[method],) = axes.plot(line["n"], line[column], color=colour, marker=marker)
                end = line.iloc[-1]
                said.append(f"{method} {label} {end[column]:.3g} at n={end['n']}")
            label_ends(axes, lines)
        title = f"{named['operator']} of {named['problem']}, order {named['order']}"
        setting = (
            f"{named['dtype']}, {named['device']}, {named['threads']} thread{'' if named['threads'] == 1 else 's'}"
        )
        figure.suptitle(f"{title} ({setting})", x=0.01, ha="left", fontsize=11)
        name = "-".join(str(k) for k in key).replace("_", "-")
        yield Drawn(f"dimension-{name}", f"{title}: {setting}.", f"{title}, {setting}. " + "; ".join(said), figure)

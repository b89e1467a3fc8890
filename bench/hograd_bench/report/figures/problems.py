"""Which method is fast on which problem: a map of methods by problems."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns

from hograd_bench import units
from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn, panel, slug
from hograd_bench.report.figures._series import MOST, SETTING, by_way

ORDER = 5
TITLE = "Methods by problem"
ABOUT = (
    "Speed against one method, at the largest size of each problem where both were timed: 2 is twice as fast, 0.5 "
    "takes twice as long. Blue is faster, red slower; a blank square was not measured, or was not right."
)
MOST_PROBLEMS = 18
REFERENCE = "double_backward"
_SIZES = ["n", "depth", "batch"]
_PLACE = [c for c in SETTING if c != "preparation"]


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture an operator, order and setting in which three methods or more were timed on several problems."""
    rows = by_way(positive(data.ok, "seconds_min"))
    groups = rows.groupby(["operator", "order", *_PLACE], observed=True)
    for number, (_, part) in enumerate(sorted(groups, key=lambda item: -len(item[1]))[:MOST]):
        reference, speeds, anchors = compared(part)
        if speeds.shape[0] < 3 or speeds.shape[1] < 2:
            continue
        operator, order = str(part["operator"].iloc[0]), int(part["order"].iloc[0])
        words = text.operator_name(operator, order)
        name = f"problems-{number}-{slug(operator)}"
        keys = {"operator": words, "order": str(order)}
        svg = _map(speeds, anchors, f"{words}, k = {order}", reference, f"{name}-0")
        yield Drawn(name, f"{words}, k = {order}: speed against {reference}", keys, [svg])


def compared(part: pd.DataFrame) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """The method compared with; speeds against it, ways by problems; and the anchor of each.

    :data:`REFERENCE`, where it was timed, else the way that was timed on most problems.
    """
    counts = part.groupby("way")["problem"].nunique()
    reference = REFERENCE if REFERENCE in counts.index else str(counts.idxmax())
    cells = part.sort_values(["way", *_SIZES], kind="stable").drop_duplicates(["way", "problem", *_SIZES])
    base = cells.loc[cells["way"] == reference, ["problem", *_SIZES, "seconds_min"]]
    both = cells.merge(base, on=["problem", *_SIZES], suffixes=("", "_base"))
    shared = both.groupby(["problem", *_SIZES])["way"].transform("nunique")
    # Of each problem the size that most methods reached, of those the largest.
    best = both.assign(shared=shared).sort_values(["shared", *_SIZES], kind="stable").groupby("problem").tail(1)
    here = both.merge(best[["problem", *_SIZES]], on=["problem", *_SIZES])
    here = here.assign(speed=here["seconds_min_base"] / here["seconds_min"])
    most = here["problem"].value_counts().sort_index().sort_values(ascending=False, kind="stable").index[:MOST_PROBLEMS]
    here = here[here["problem"].isin(most)]
    speeds = here.pivot(index="way", columns="problem", values="speed")
    ranked = np.log(speeds).mean(axis=1).sort_values(ascending=False, kind="stable").index
    anchors = here.pivot(index="way", columns="problem", values="anchor")
    return reference, speeds.loc[ranked], anchors.loc[ranked]


def _map(speeds: pd.DataFrame, anchors: pd.DataFrame, title: str, reference: str, name: str) -> str:
    ways = [text.clean(way, style.LONGEST_NAME) for way in speeds.index]
    left = max(0.24, 0.011 * max(map(len, ways)))  # room for the longest name
    figure, axes = style.canvas(7.2, 1.4 + 0.27 * len(speeds), left=left, right=0.99, top=0.1, bottom=1.1)
    sns.heatmap(  # the names in results are hostile: seaborn sees numbers alone
        np.log2(speeds.to_numpy(dtype=float)).clip(-3, 3), cmap=style.DIVERGING, vmin=-3, vmax=3,
        linewidths=1, cbar=False, ax=axes,
    )  # fmt: skip
    for (i, j), speed in np.ndenumerate(speeds.to_numpy(dtype=float)):
        if np.isfinite(speed):
            told = axes.text(j + 0.5, i + 0.5, units.figures(speed), ha="center", va="center", fontsize=7.5)
            told.set_url(f"#{anchors.iat[i, j]!s}" if anchors.iat[i, j] else None)
    names = [text.clean(problem, 18) for problem in speeds.columns]
    axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=38, ha="right", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(speeds)) + 0.5, ways, rotation=0)
    axes.grid(visible=False)
    means = np.exp(np.log(speeds).mean(axis=1))
    said = "; ".join(f"{text.clean(way)} {units.times(mean)}" for way, mean in means.items())
    return panel(figure, name, f"{title}: speed against {text.clean(reference)}, means over problems: {said}.")

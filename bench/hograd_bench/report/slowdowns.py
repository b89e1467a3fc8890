"""The picture of an answer: how many times the fastest's time each method takes, by dimension."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hograd_bench import units
from hograd_bench.cells import PREPARATIONS
from hograd_bench.report import advice, style, text
from hograd_bench.report.answers import Answer
from hograd_bench.report.figures import Drawn
from hograd_bench.report.figures._contract import panel, slug
from hograd_bench.report.palette import MARKERS, Look, Palette

MOST_LINES = 7
"""Ways in a picture at most, those that lose least."""
_POINT = ["problem", "n", "depth", "batch", "machine"]
_WAY = ["operator", "method", "preparation"]
Line = tuple[str, str, pd.DataFrame]
"""Method, preparation, and columns ``dimension`` and ``times``."""


def slowdowns(rows: pd.DataFrame, order: int) -> list[Line]:
    """Time over the fastest's, the geometric mean over problems, by dimension; the ways that lose least, best first.

    Dimensions are rounded to powers of four, so that problems with nearly as many parameters share a point.
    """
    here = rows[rows["order"] == order]
    fastest = here.groupby(_POINT, observed=True)["cost"].transform("min")
    told = here[["operator", "method", "preparation"]].assign(
        dimension=4.0 ** np.round(np.log2(here["dimension"].astype(float)) / 2), loss=np.log(here["cost"] / fastest)
    )
    means = told.groupby([*_WAY, "dimension"], observed=True)["loss"].mean().reset_index()
    means["times"] = np.exp(means["loss"])
    ranked = sorted(means.groupby(_WAY, observed=True), key=lambda item: item[1]["loss"].mean())
    return [(str(key[1]), str(key[2]), part[["dimension", "times"]]) for key, part in ranked[:MOST_LINES]]


def draw(answer: Answer, number: int, palette: Palette) -> Drawn | None:
    """The picture of the number-th answer; None where there is but one dimension or one way."""
    lines = slowdowns(answer.need.rows, answer.order)
    if len(lines) < 2 or all(len(rows) < 2 for _, _, rows in lines):
        return None
    name = f"answer-{number}-{slug(answer.need.title)}"
    return Drawn(name, answer.title, {}, [_panel(lines, palette, f"{name}-0")])


def _look(palette: Palette, method: str, preparation: str) -> Look:
    """The method's look, with a marker of its own for each preparation."""
    look, place = palette[method], PREPARATIONS.index(preparation) if preparation in PREPARATIONS else 0
    return Look(look.index, MARKERS[(MARKERS.index(look.marker) + place) % len(MARKERS)])


def _panel(lines: Sequence[Line], palette: Palette, name: str) -> str:
    figure, axes = style.canvas(5.4, 2.5, right=0.66)
    drawn = [style.Series(rows, _look(palette, method, preparation)) for method, preparation, rows in lines]
    style.series(axes, drawn, "dimension", "times", 18)
    style.sizes_axis(axes, pd.concat([rows["dimension"] for _, _, rows in lines]), "dimension n")
    style.ratios(axes)
    style.heading(axes, "Times the fastest method's time")
    ends = [(advice.way(method, how), float(rows["times"].iloc[-1])) for method, how, rows in lines]
    style.label_ends(axes, [(way, at, one.look) for (way, at), one in zip(ends, drawn, strict=True)])
    said = "; ".join(f"{way}: {units.times(at)}" for way, at in ends)
    return panel(figure, name, f"Times the fastest method's time, at the largest dimension: {text.clean(said, 400)}.")

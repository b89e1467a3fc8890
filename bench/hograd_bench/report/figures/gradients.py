"""Time in gradients against Griewank & Walther's bounds."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from hograd_bench import units
from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn, panel, slug
from hograd_bench.report.figures._series import FEW, by_way, looks_of

ORDER = 60
TITLE = "How many gradients does it cost?"
ABOUT = (
    "Time over the time of the same problem's gradient, taken around it in the same process; each point is a cell, "
    "a bar the median. Dashed, for the HVP: the 2 to 4 gradients that it is said to take. The bounds of "
    "Griewank and Walther (2008) are on operations, in evaluations of f: they have a section of their own."
)
_FOLKLORE = (2.0, 4.0)


def answer(data: ReportData) -> str:
    """The HVP's fastest method by its median."""
    rows = by_way(positive(data.exact, "gradient_equivalents"))
    rows = rows[(rows["operator"] == "derivative_vector_product") & (rows["order"] == 2)]
    if rows.empty:
        return ""
    medians = rows.groupby("way", observed=True)["gradient_equivalents"].median()
    return (
        f"An HVP takes {units.figures(float(medians.min()))} gradients by {text.clean(medians.idxmin())}, "
        f"{units.figures(float(medians.max()))} by {text.clean(medians.idxmax())} (medians)."
    )


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture an operator and order."""
    rows = by_way(positive(data.ok, "gradient_equivalents"))
    groups = [g for g in rows.groupby(["operator", "order"], observed=True) if g[1]["method"].nunique() > 1]
    ranked = sorted(groups, key=lambda item: -len(item[1]))
    for number, (_, part) in enumerate(ranked[:FEW]):
        operator, order = str(part["operator"].iloc[0]), int(part["order"].iloc[0])
        name = f"gradients-{number}-{slug(operator)}"
        title = f"{text.operator_name(str(operator), int(order))}, k = {order}"
        keys = {"operator": text.operator_name(str(operator), int(order)), "order": str(order)}
        vector = operator == "derivative_vector_product" and order == 2
        yield Drawn(name, title, keys, [_strip(data, part, title, f"{name}-0", bounds=vector)])


def _strip(data: ReportData, part: pd.DataFrame, title: str, name: str, *, bounds: bool) -> str:
    medians = part.groupby("way", observed=True)["gradient_equivalents"].median().sort_values(ascending=False)
    figure, axes = style.canvas(7.2, 0.75 + 0.29 * len(medians), left=0.29, right=0.97, top=0.2)
    looks = looks_of(data, part)
    style.strips(axes, part, "gradient_equivalents", "way", list(medians.index), looks)
    for at, (way, median) in enumerate(medians.items()):
        axes.vlines(median, at - 0.38, at + 0.38, color=looks[str(way)].colour, linewidth=2.5, zorder=4)
    spans = part.groupby("way", observed=True)["gradient_equivalents"].agg(["median", "min", "max"])
    said = [f"{m}: median {s['median']:.3g}, {s['min']:.3g} to {s['max']:.3g}" for m, s in spans.iterrows()]
    for bound in _FOLKLORE if bounds else ():
        style.limit(axes, bound, f"{bound:g}")
    style.values(axes, "gradient_equivalents", "x")
    axes.set_xlabel("gradients (logarithmic)")
    return panel(figure, name, f"{title}, time in gradients by method. " + "; ".join(reversed(said)))

"""Time in gradients against Griewank & Walther's bounds."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from hograd_bench.report import style, text
from hograd_bench.report.figures._contract import Drawn, panel, slug
from hograd_bench.report.figures._series import MOST, lines
from hograd_bench.report.shown import Shown, positive

ORDER = 60
TITLE = "How many gradients does it cost?"
ABOUT = (
    "Time over the time of the same problem's gradient, taken around it in the same process; each point is a cell, "
    "a bar the median. Dashed, for the HVP: the 2 to 4 gradients that it is said to take. The bounds of "
    "Griewank and Walther (2008) are on operations, in evaluations of f: they have a section of their own."
)
_FOLKLORE = (2.0, 4.0)


def draw(shown: Shown) -> Iterator[Drawn]:
    """One picture an operator and order."""
    rows = positive(shown.ok, "gradient_equivalents")
    groups = [g for g in rows.groupby(["operator", "order"], observed=True) if g[1]["method"].nunique() > 1]
    ranked = sorted(groups, key=lambda item: -len(item[1]))
    for number, (_, part) in enumerate(ranked[:MOST]):
        operator, order = str(part["operator"].iloc[0]), int(part["order"].iloc[0])
        name = f"gradients-{number}-{slug(operator)}"
        title = f"{text.operator_name(str(operator), int(order))}, k = {order}"
        keys = {"operator": text.operator_name(str(operator), int(order)), "order": str(order)}
        vector = operator == "derivative_vector_product" and order == 2
        yield Drawn(name, title, keys, [_strip(shown, part, title, f"{name}-0", bounds=vector)])


def _strip(shown: Shown, part: pd.DataFrame, title: str, name: str, *, bounds: bool) -> str:
    medians = part.groupby("method", observed=True)["gradient_equivalents"].median().sort_values(ascending=False)
    figure, axes = style.canvas(7.2, 0.75 + 0.29 * len(medians), left=0.25, right=0.97, top=0.2)
    place = {m: i for i, m in enumerate(medians.index)}
    said = []
    for method, cells in lines(part, "gradient_equivalents"):
        look, at = shown.palette[method], place[method]
        x = cells["gradient_equivalents"].to_list()
        # A fixed, even scatter tells cells apart that took as long; it means nothing.
        y = [at + 0.22 * ((7 * i) % 11 / 5 - 1) for i in range(len(x))]
        style.points(axes, x, y, look, cells["anchor"].to_list(), 16)
        axes.plot([medians[method]] * 2, [at - 0.38, at + 0.38], color=look.colour, linewidth=2.5, zorder=4)
        said.append(f"{method}: median {medians[method]:.3g}, {min(x):.3g} to {max(x):.3g}")
    if bounds:
        for bound in _FOLKLORE:
            axes.axvline(bound, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
            axes.annotate(
                f"{bound:g}", (bound, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), ha="center",
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
    axes.set_yticks(range(len(medians)), [text.clean(m, 24) for m in medians.index])
    for label, method in zip(axes.get_yticklabels(), medians.index, strict=True):
        label.set_color(shown.palette[method].colour)
    axes.set_ylim(-0.6, len(medians) - 0.4)
    style.values(axes, "gradient_equivalents", axis="x", label="gradients (logarithmic)")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    return panel(figure, name, f"{title}, time in gradients by method. " + "; ".join(reversed(said)))

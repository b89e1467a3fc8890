"""Counted operations over those of f, against Griewank & Walther's bounds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hograd_bench import claims
from hograd_bench.report import style, text
from hograd_bench.report.figures._contract import Drawn, panel
from hograd_bench.report.palette import Look
from hograd_bench.report.shown import Shown, positive

ORDER = 65
TITLE = "Operations against Griewank and Walther's bounds"
ABOUT = (
    "Floating-point operations counted during the call, over those of f counted by hand, an elementary function "
    "counting as one. Dashed: the bounds of Griewank and Walther (2008), 5 for a gradient and 10 for an HVP. Counts, "
    "so that no clock is involved."
)
BOUNDS = (("gradient", 5.0), ("HVP", 10.0))
MOST_PROBLEMS = 16
GRADIENT = Look(8, "d")
"""The gradient is no method of a product: grey, and a mark of its own."""
_SIZES = ("problem", "n", "depth", "batch")


def draw(shown: Shown) -> Iterator[Drawn]:
    """HVPs and gradients, by problem; nothing where no HVP was counted of a problem whose f was."""
    rows = positive(shown.ok, "flops")
    product = (rows["operator"] == "derivative_vector_product") & (rows["order"] == 2)
    rows = rows[product | (rows["operator"] == "gradient")]
    operations = [claims.operations_of(*key) or np.nan for key in rows[list(_SIZES)].itertuples(index=False, name=None)]
    rows = rows.assign(ratio=rows["flops"].to_numpy(dtype=float) / np.array(operations, dtype=float))
    rows = rows[rows["ratio"].notna()]
    vector = rows["operator"] != "gradient"
    problems = sorted(rows.loc[vector, "problem"].unique())[:MOST_PROBLEMS]
    if not problems:
        return
    rows = rows[rows["problem"].isin(problems)]
    figure, axes = style.canvas(7.2, 1.2 + 0.34 * len(problems), left=0.22, right=0.75, top=0.2)
    named, said = [], []
    ways = [("gradient", GRADIENT, rows[rows["operator"] == "gradient"])]
    ways += [
        (str(method), shown.palette[str(method)], cells)
        for method, cells in rows[rows["operator"] != "gradient"].groupby("method", observed=True, sort=True)
    ]
    for name, look, cells in ways:
        if cells.empty:
            continue
        y = [float(problems.index(p)) for p in cells["problem"]]
        style.points(axes, cells["ratio"].to_list(), y, look, cells["anchor"].to_list(), 18)
        middle = float(cells["ratio"].median())
        named.append((middle, name, look))
        said.append(f"{name}: {cells['ratio'].min():.3g} to {cells['ratio'].max():.3g}, median {middle:.3g}")
    for what, bound in BOUNDS:
        axes.axvline(bound, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"{what} {bound:g}", (bound, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), ha="center",
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    axes.set_yticks(range(len(problems)), [text.clean(p, 22) for p in problems])
    axes.set_ylim(-0.6, len(problems) - 0.4)
    axes.set_xscale("log")
    axes.set_xlim(min(rows["ratio"].min(), BOUNDS[0][1]) / 1.2, max(rows["ratio"].max(), BOUNDS[-1][1]) * 1.2)
    style.values(axes, "ratio", axis="x", label="operations, in evaluations of f (logarithmic)")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    for i, (middle, name, look) in enumerate(sorted(named, key=lambda item: -item[0])):
        axes.annotate(
            f"{look.sign} {text.clean(name, 22)} {middle:.2g}", (1, 1 - (i + 0.5) / len(named)),
            xycoords="axes fraction", xytext=(10, 0), textcoords="offset points", color=look.colour, fontsize=8.5,
            va="center",
        )  # fmt: skip
    alt = "Operations over those of f, by method: " + "; ".join(said)
    yield Drawn("bounds-0", "Hessian-vector products and gradients, medians at the right", {},
                [panel(figure, "bounds-0-0", alt)])  # fmt: skip

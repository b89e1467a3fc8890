"""Counted operations over those of f, against Griewank & Walther's bounds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hograd_bench import claims
from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn, panel
from hograd_bench.report.figures._series import by_way, looks_of
from hograd_bench.report.palette import Look

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


def draw(data: ReportData) -> Iterator[Drawn]:
    """HVPs and gradients, by problem; nothing where no HVP was counted of a problem whose f was."""
    rows = positive(data.ok, "flops")
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
    rows = by_way(rows.assign(place=rows["problem"].map(problems.index)))
    looks = looks_of(data, rows)
    rows["way"] = rows["way"].where(rows["operator"] != "gradient", "gradient")
    drawn, named, said = [], [], []
    for name, cells in rows.groupby("way", observed=True, sort=True):
        look = GRADIENT if name == "gradient" else looks[str(name)]
        drawn.append(style.Series(cells, look))
        low, middle, high = (float(cells["ratio"].quantile(q)) for q in (0, 0.5, 1))
        named.append((middle, str(name), look))
        said.append(f"{name}: {low:.3g} to {high:.3g}, median {middle:.3g}")
    style.points(axes, drawn, "ratio", "place", 18)
    for what, bound in BOUNDS:
        style.limit(axes, bound, f"{what} {bound:g}")
    style.name_rows(axes, problems, {})
    axes.set_xlim(min(rows["ratio"].min(), BOUNDS[0][1]) / 1.2, max(rows["ratio"].max(), BOUNDS[-1][1]) * 1.2)
    style.values(axes, "ratio", "x")
    axes.set_xlabel("operations, in evaluations of f (logarithmic)")
    for i, (middle, name, look) in enumerate(sorted(named, key=lambda item: -item[0])):
        axes.annotate(
            f"{look.sign} {text.clean(name, 30)} {middle:.2g}", (1, 1 - (i + 0.5) / len(named)),
            xycoords="axes fraction", xytext=(10, 0), textcoords="offset points", color=look.colour, fontsize=8.5,
            va="center",
        )  # fmt: skip
    alt = "Operations over those of f, by method: " + "; ".join(said)
    yield Drawn("bounds-0", "Hessian-vector products and gradients, medians at the right", {},
                [panel(figure, "bounds-0-0", alt)])  # fmt: skip

"""Counted operations over those of f, against Griewank & Walther's bounds."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from hograd_bench.report import style, text
from hograd_bench.report.figures._contract import Drawn, panel
from hograd_bench.report.shown import Shown, positive

ORDER = 65
TITLE = "Operations against Griewank and Walther's bounds"
ABOUT = (
    "Floating-point operations counted during the call, over those counted during one gradient of the same problem "
    "and sizes. If a gradient takes at most 5 evaluations of f and an HVP at most 10 (Griewank and Walther 2008), an "
    "HVP whose gradient stays at 5 takes at most 2 gradients; dashed. Counts, so that no clock is involved."
)
_SIZES = ["problem", "n", "depth", "batch", "dtype", "device", "threads", "machine"]
_BOUND = 2.0


def draw(shown: Shown) -> Iterator[Drawn]:
    """HVPs over gradients, by problem; nothing where no gradient was counted."""
    rows = positive(shown.ok, "flops")
    gradient = rows[rows["operator"] == "gradient"].groupby(_SIZES, observed=True)["flops"].min()
    chosen = rows[(rows["operator"] == "derivative_vector_product") & (rows["order"] == 2)]
    if gradient.empty or chosen.empty:
        return
    base = gradient.reindex(pd.MultiIndex.from_frame(chosen[_SIZES])).to_numpy()
    chosen = chosen.assign(ratio=chosen["flops"].to_numpy() / base)
    chosen = chosen[chosen["ratio"].notna()]
    if chosen.empty:
        return
    problems = sorted(chosen["problem"].unique())[:16]
    chosen = chosen[chosen["problem"].isin(problems)]
    figure, axes = style.canvas(7.2, 1.2 + 0.34 * len(problems), left=0.22, right=0.75, top=0.2)
    ends, said = {}, []
    for method, cells in chosen.groupby("method", observed=True, sort=True):
        look = shown.palette[str(method)]
        y = [problems.index(p) for p in cells["problem"]]
        style.points(axes, cells["ratio"].to_list(), [float(v) for v in y], look, cells["anchor"].to_list(), 18)
        middle = float(cells["ratio"].median())
        ends[str(method)] = middle
        said.append(f"{method}: {cells['ratio'].min():.3g} to {cells['ratio'].max():.3g}, median {middle:.3g}")
    axes.axvline(_BOUND, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.set_yticks(range(len(problems)), [text.clean(p, 22) for p in problems])
    axes.set_ylim(-0.6, len(problems) - 0.4)
    style.values(axes, "ratio", axis="x", label="operations, in gradients (logarithmic)")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    for i, (method, middle) in enumerate(sorted(ends.items(), key=lambda item: -item[1])):
        axes.annotate(
            f"{text.clean(method, 22)} {middle:.2g}", (1, 1 - (i + 0.5) / len(ends)), xycoords="axes fraction",
            xytext=(10, 0), textcoords="offset points", color=shown.palette[method].colour, fontsize=8.5, va="center",
        )  # fmt: skip
    alt = "Operations of an HVP over those of a gradient, by method: " + "; ".join(said)
    yield Drawn("bounds-0", "Hessian-vector products, medians at the right", {}, [panel(figure, "bounds-0-0", alt)])

"""Bytes against the length of the computation, one line an order."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import pandas as pd

from hograd_bench.report.figures._contract import Drawn
from hograd_bench.report.style import COLOURS, MARKERS, label_ends

ORDER = 10
TITLE = "Bytes against the length of the computation"
ABOUT = (
    "Peak allocator bytes of the k-th derivative of a chain of T steps, by order k. On these axes a line that is "
    "straight with slope one is O(T). Bytes are counted, not sampled: the same in every run."
)

_GROUP = ["operator", "method", "problem", "n", "batch", "dtype", "device", "threads"]


def draw(rows: pd.DataFrame) -> Iterator[Drawn]:
    """One picture an operator and problem that was swept over depth at several orders."""
    if "peak_bytes" not in rows:
        return
    found = rows.dropna(subset=["peak_bytes"])
    for (operator, problem), part in found.groupby(["operator", "problem"], observed=True):
        # The method with the most points speaks for the operator here; the table has them all.
        spans = part.groupby(_GROUP, observed=True)["depth"].nunique()
        if spans.empty or spans.max() < 3:
            continue
        best = part.groupby(_GROUP, observed=True).get_group(spans.idxmax())
        figure, axes = plt.subplots(figsize=(6.2, 3.8))
        lines = {}
        slopes = []
        for i, (order, line) in enumerate(best.groupby("order")):
            line = line.sort_values("depth")
            if len(line) < 2:
                continue
            colour = COLOURS[i % len(COLOURS)]
            (drawn,) = axes.plot(
                line["depth"], line["peak_bytes"], color=colour, marker=MARKERS[i % len(MARKERS)], label=f"k = {order}"
            )
            lines[f"k = {order}"] = drawn
            first, last = line.iloc[0], line.iloc[-1]
            ratio = last["peak_bytes"] / first["peak_bytes"]
            slopes.append(f"order {order}: ×{ratio:.2f} from T={first['depth']} to {last['depth']}")
        axes.set(xscale="log", yscale="log", xlabel="T, steps of the chain", ylabel="peak bytes")
        method, n = best["method"].iloc[0], best["n"].iloc[0]
        axes.set_title(f"{operator} [{method}] of {problem}, n = {n}")
        label_ends(axes, lines)
        yield Drawn(
            f"length-{operator}-{problem}".replace("_", "-"),
            f"{operator} of {problem} by {method}, n = {n}.",
            f"Peak bytes of {operator} of {problem} by {method} against T. " + "; ".join(slopes),
            figure,
        )

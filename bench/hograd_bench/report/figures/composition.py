"""What the peak of memory is made of, by phase and by operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
import seaborn as sns

from hograd_bench import makeup, units
from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn, panel, slug
from hograd_bench.report.figures._series import FEW, at_largest, keys_of
from hograd_bench.report.palette import Look

ORDER = 80
TITLE = "What the peak is made of"
ABOUT = (
    "The blocks that are alive at the peak, by the phase of the computation that allocated them (forward, first "
    "backward, second, …) and by the operation."
)
_KINDS = 6


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture an operator, problem and order, at the largest size that most methods reached."""
    rows = positive(data.ok, "peak_bytes")
    if "details" not in rows:
        return
    number = 0
    for named, part in at_largest(rows):
        if number >= FEW:
            return
        here = part.sort_values("peak_bytes")
        found: list[tuple[Any, list[dict[str, Any]]]]
        found = [(row, makeup.blocks(row["details"])) for row in here.to_dict("records")]
        found = [(row, made) for row, made in found if made]
        if len(found) < 2:
            continue
        name = f"composition-{number}-{slug(named['operator'], named['problem'])}"
        title = f"{text.operator_name(named['operator'], named['order'])} of {text.clean(named['problem'], 40)}"
        panels = [
            _bars(data, found, "phase", "By phase", f"{name}-0"),
            _bars(data, found, "op", "By operation", f"{name}-1"),
        ]
        yield Drawn(name, f"{title}, {text.sizes(here.iloc[0])}", keys_of(named, data), panels)
        number += 1


def _bars(
    data: ReportData, found: list[tuple[dict[str, Any], list[dict[str, Any]]]], by: str, title: str, name: str
) -> str:
    table = pd.DataFrame(
        [
            (i, text.clean(b.get(by) or "unknown", 40).removeprefix("aten::"), b["bytes"])
            for i, (_, made) in enumerate(found)
            for b in made
        ],
        columns=["place", "kind", "bytes"],
    )
    sums = table.groupby("kind")["bytes"].sum().sort_values(ascending=False)
    # Phases in the order in which they happen; operations by size.
    kinds = (
        sorted(sums.index[:_KINDS], key=lambda k: (k != "forward", k)) if by == "phase" else list(sums.index[:_KINDS])
    )
    table["kind"] = table["kind"].where(table["kind"].isin(kinds), "others")
    kinds += ["others"] if (table["kind"] == "others").any() else []
    totals = [sum(b["bytes"] for b in made) for _, made in found]
    table["bytes"] = 100 * table["bytes"] / table["place"].map(dict(enumerate(totals)))
    wide = table.pivot_table(index="place", columns="kind", values="bytes", aggfunc="sum", fill_value=0)[kinds]
    figure, axes = style.canvas(5.4, 1.28 + 0.27 * len(found), left=0.29, right=0.88, top=0.75)
    looks = {kind: Look(i if kind != "others" else 8, "s") for i, kind in enumerate(kinds)}
    sns.histplot(
        table, y="place", weights="bytes", hue="kind", hue_order=kinds[::-1], multiple="stack", discrete=True,
        shrink=0.72, palette={kind: look.colour for kind, look in looks.items()}, alpha=1, linewidth=0, legend=False,
        ax=axes,
    )  # fmt: skip
    rows = [row for row, _ in found]
    methods = {row["method"]: data.palette[row["method"]] for row in rows}
    style.name_rows(axes, [row["method"] for row in rows], methods, [row["anchor"] for row in rows])
    for i, total in enumerate(totals):
        axes.annotate(units.binary(total), (100, i), xytext=(5, 0), textcoords="offset points", fontsize=8, va="center")
    axes.set(xlim=(0, 100), xlabel="percent of the peak; the peak at the right")
    style.key(axes, looks, title)
    said = "; ".join(
        f"{row['method']}: " + ", ".join(f"{k} {wide.loc[i, k]:.0f}%" for k in kinds if wide.loc[i, k])
        for i, (row, _) in enumerate(found)
    )
    return panel(figure, name, f"Peak bytes {title.lower()}. {said}")

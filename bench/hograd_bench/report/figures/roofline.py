"""The roofline: operations a second against operations a byte, with the machine's ceilings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from hograd_bench.report import style, text
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn, panel
from hograd_bench.report.palette import ordinal

ORDER = 90
TITLE = "Roofline"
ABOUT = (
    "Every cell whose operations and bytes were counted, by its arithmetic intensity (operations over bytes) and the "
    "rate at which it computes. The roof was measured on this machine: copying within the cache and from memory, and "
    "multiplying matrices. A cell far beneath the roof spends its time neither on arithmetic nor on bytes: it is "
    "overhead."
)


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture a machine, device and number of threads."""
    rows = positive(data.ok, "seconds_min", "flops", "moved_bytes")
    ranked = sorted(rows.groupby(["machine", "device", "threads"], observed=True), key=lambda item: -len(item[1]))
    for number, ((machine, device, threads), part) in enumerate(ranked[:6]):
        key = "1" if device == "cuda" else str(threads)
        ceiling = _section(
            data.environment({str(k): v for k, v in part.iloc[-1].items()}), "ceilings", str(device), key
        )
        name = f"roofline-{number}"
        keys = {"device": f"{text.clean(device, 20)}, {text.threads(int(part['threads'].iloc[0]))}"}
        if data.rows["machine"].nunique() > 1:
            keys["machine"] = text.clean(machine, 60)
        title = f"{len(part):,} cells on {text.clean(machine, 60)}, {keys['device']}"
        yield Drawn(name, title, keys, [_panel(part, ceiling, f"{name}-0")])


def _panel(part: pd.DataFrame, ceiling: Mapping[str, Any], name: str) -> str:
    figure, axes = style.canvas(8.6, 4.8, left=0.13, right=0.72)
    part = part.assign(intensity=part["flops"] / part["moved_bytes"], rate=part["flops"] / part["seconds_min"])
    drawn, ends = [], []
    for i, (operator, cells) in enumerate(part.groupby("operator", observed=True, sort=True)):
        look = ordinal(i)
        drawn.append(style.Series(cells, look))
        ends.append((text.operator_name(str(operator)), float(cells["rate"].median()), look))
    style.points(axes, drawn, "intensity", "rate", 13)
    low, high = part["intensity"].min() / 2, max(part["intensity"].max() * 2, 4.0)
    rates = _section(ceiling, "matmul_flop_per_s")
    roofs = {d: r for d, r in rates.items() if text.is_number(r) and r > 0 and d in set(part["dtype"])}
    best = max(roofs.values(), default=None)
    said, slopes = [f"{len(part)} cells"], []
    for key, what in (("cached_copy_bytes_per_s", "cache"), ("copy_bytes_per_s", "memory")):
        bandwidth = ceiling.get(key)
        if not text.is_number(bandwidth) or bandwidth is None or bandwidth <= 0:
            continue
        end = high if best is None else min(high, best / bandwidth)
        axes.plot([low, end], [low * bandwidth, end * bandwidth], color=style.INK, linewidth=1, zorder=1,
                  linestyle="-" if what == "cache" else style.DASHED)  # fmt: skip
        slopes.append((f"{what}, {bandwidth / 1e9:.3g} GB/s", bandwidth, end))
        said.append(f"{what} {bandwidth / 1e9:.3g} GB/s")
    for dtype, rate in roofs.items():
        axes.plot([low, high], [rate, rate], color=style.INK, linewidth=0.8, zorder=1)
        axes.annotate(f"matrix product, {text.clean(dtype, 12)}: {rate / 1e9:.3g} GFLOP/s", (low, rate), xytext=(4, 2),
                      textcoords="offset points", fontsize=8)  # fmt: skip
        said.append(f"{dtype} {rate / 1e9:.3g} GFLOP/s")
    axes.set_xlim(low, high)
    style.ticks(axes, "y", EngFormatter("FLOP/s"))
    style.ticks(axes, "x", "{:g}".format)
    axes.set_xlabel("operations a byte moved")
    style.heading(axes, "Operations a second")
    style.label_ends(axes, ends)
    for label, bandwidth, end in slopes:
        _along(axes, label, (low, low * bandwidth), (end, end * bandwidth))
    return panel(figure, name, "Roofline. " + "; ".join(said) + ".")


def _along(axes: Axes, label: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A label on a line from its lower end on, turned as the line is; the axes' limits must be final."""
    axes.set_ylim(axes.get_ylim())
    (x0, y0), (x1, y1) = axes.transData.transform([start, end])
    axes.annotate(label, start, xytext=(8, 8), textcoords="offset points", fontsize=8, rotation_mode="anchor",
                  rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)), va="bottom")  # fmt: skip


def _section(found: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}

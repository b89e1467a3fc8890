"""Time against the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hograd_bench import units
from hograd_bench.report.data import ReportData, positive
from hograd_bench.report.figures._contract import Drawn
from hograd_bench.report.figures._sweep import sweep

ORDER = 50
TITLE = "Threads"
KEY = ["operator", "method", "problem", "n", "order", "depth", "batch", "dtype", "device", "preparation", "machine"]
ABOUT = "Does a second thread help? Times of the same call by the number of torch's intra-op threads."


def answer(data: ReportData) -> str:
    """Time by most threads against one, over all cells that were timed by both."""
    rows = positive(data.ok, "seconds_min")
    times = rows.pivot_table("seconds_min", [c for c in KEY if c in rows], "threads", observed=True).dropna()
    if times.shape[1] < 2 or times.empty:
        return ""
    few, many = times.columns[0], times.columns[-1]
    ratios = times[many] / times[few]
    mean = units.times(float(np.exp(np.log(ratios).mean())))
    return (
        f"Over {len(times):,} cells, {many} threads take {mean} the time of {few} (geometric mean; "
        f"{units.times(ratios.min())} at best, {units.times(ratios.max())} at worst)."
    )


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture a group that was measured with two numbers of threads or more."""
    metrics = (("seconds_min", "Time of a call"),)
    yield from sweep(data, "threads", "threads", "threads", least=2, metrics=metrics, fitted=False)

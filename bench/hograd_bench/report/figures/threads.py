"""Time against the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

from hograd_bench.report.data import ReportData
from hograd_bench.report.figures._contract import Drawn
from hograd_bench.report.figures._sweep import sweep

ORDER = 50
TITLE = "Threads"
ABOUT = "Does a second thread help? Times of the same call by the number of torch's intra-op threads."


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture a group that was measured with two numbers of threads or more."""
    metrics = (("seconds_min", "Time of a call"),)
    yield from sweep(data, "threads", "threads", "threads", least=2, metrics=metrics, fitted=False)

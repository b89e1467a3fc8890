"""Time and bytes against the batch."""

from __future__ import annotations

from collections.abc import Iterator

from hograd_bench.report.data import ReportData
from hograd_bench.report.figures._contract import Drawn
from hograd_bench.report.figures._sweep import sweep

ORDER = 40
TITLE = "Growth with the batch B"
ABOUT = "Losses over a batch of samples: what more samples cost. Solid lines are laws, dotted ones join the points."


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture a loss that was measured at three batches or more."""
    yield from sweep(data, "batch", "batch", "batch B")

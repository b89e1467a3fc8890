"""Time, gradients and bytes against the derivative order."""

from __future__ import annotations

from collections.abc import Iterator

from hograd_bench.report.data import ReportData
from hograd_bench.report.figures._contract import Drawn
from hograd_bench.report.figures._sweep import sweep

ORDER = 30
TITLE = "Growth with the derivative order k"
ABOUT = (
    "What each further order costs. On a logarithmic axis a straight line is exponential growth; one that bends over "
    "grows more slowly than that. No law is drawn here: growth in the order is judged in the verdicts."
)


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture a group that was measured at three orders or more."""
    metrics = (("gradient_equivalents", "Time in gradients"), ("peak_bytes", "Peak bytes"))
    yield from sweep(data, "orders", "order", "order k", metrics=metrics, fitted=False)

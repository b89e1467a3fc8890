"""Time and bytes against the dimension."""

from __future__ import annotations

from collections.abc import Iterator

from hograd_bench.report.data import ReportData
from hograd_bench.report.figures._contract import Drawn
from hograd_bench.report.figures._sweep import sweep

ORDER = 10
TITLE = "Growth with the dimension n"
ABOUT = (
    "Time is the fastest round of a warm call; bytes are the allocator's peak, counted and the same in every run. "
    "A solid line is the law through the points: exact for bytes, fitted for times. Dotted: no law was found. Both "
    "axes are logarithmic, so that a steeper line is a higher power of n."
)


def draw(data: ReportData) -> Iterator[Drawn]:
    """One picture a group that was swept over at least three dimensions."""
    yield from sweep(data, "dimension", "n", "n")

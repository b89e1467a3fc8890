"""Time and bytes against the batch."""

from __future__ import annotations

from collections.abc import Iterator

from hograd_bench.report.figures._contract import Drawn
from hograd_bench.report.figures._sweep import sweep
from hograd_bench.report.shown import Shown

ORDER = 40
TITLE = "Growth with the batch B"
ABOUT = "Losses over a batch of samples: what more samples cost. Solid lines are laws, dotted ones join the points."


def draw(shown: Shown) -> Iterator[Drawn]:
    """One picture a loss that was measured at three batches or more."""
    yield from sweep(shown, "batch", "batch", "batch B")

"""What grows with the order alone: gradients and directional derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hograd_bench.plan import Planned
from hograd_bench.sweeps import assert_settled

OPERATORS = ("gradient", "directional_derivative")


def bench_order(planned: Planned, measured: Callable[[], dict[str, Any]]) -> None:
    """Measure one planned cell."""
    assert_settled(measured())

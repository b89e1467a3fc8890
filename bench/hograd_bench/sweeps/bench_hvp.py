"""Derivative-vector products; the Hessian-vector product is their order 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hograd_bench.plan import Planned
from hograd_bench.sweeps import assert_settled

OPERATORS = ("derivative_vector_product",)


def bench_hvp(planned: Planned, measured: Callable[[], dict[str, Any]]) -> None:
    """Measure one planned cell."""
    assert_settled(measured())

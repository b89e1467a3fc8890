"""Every other operator: curvature, solvers and the uses on models, whatever is registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hograd_core
from hograd_bench import peers
from hograd_bench.plan import Planned
from hograd_bench.sweeps import assert_settled

_ELSEWHERE = {"gradient", "derivative_tensor", "derivative_vector_product", "directional_derivative"}
OPERATORS = (
    *(name for name in hograd_core.operators() if name not in _ELSEWHERE),
    *(operator.name for operator in peers.OPERATORS),
)


def bench_application(planned: Planned, measured: Callable[[], dict[str, Any]]) -> None:
    """Measure one planned cell."""
    assert_settled(measured())

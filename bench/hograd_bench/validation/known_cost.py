"""The timer on calls of known cost, and beside torch.utils.benchmark. Run by the section `timing` of the study."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.benchmark import Timer

from hograd_bench.cells import Cell
from hograd_bench.metrics import Subject
from hograd_bench.metrics.time import fastest

KNOWN = (2e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Seconds of the busy loops."""

CELLS = (
    Cell("derivative_vector_product", "double_backward", "mlp", 16),
    Cell("derivative_vector_product", "jvp_of_grad", "mlp", 16),
    Cell("derivative_tensor", "rows", "mlp", 16),
    Cell("derivative_vector_product", "double_backward", "mlp", 1024),
)


def busy(seconds: float) -> Callable[[], None]:
    """A call that takes ``seconds`` by the clock, and at most one reading of the clock longer."""
    clock, length = time.perf_counter_ns, round(seconds * 1e9)

    def spin() -> None:
        end = clock() + length
        while clock() < end:
            pass

    return spin


def nothing() -> None:
    """Costs a call and no more: what a timer reads of it is the timer's own overhead."""


@pytest.mark.parametrize("seconds", KNOWN)
def bench_known(benchmark: Any, seconds: float) -> None:
    """A busy loop of known length."""
    benchmark.extra_info["single"] = fastest(busy(seconds))
    benchmark(busy(seconds))


def bench_overhead(benchmark: Any) -> None:
    """An empty call."""
    benchmark.extra_info["single"] = fastest(nothing)
    benchmark(nothing)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
def bench_cell(benchmark: Any, cell: Cell) -> None:
    """A cell by pytest-benchmark, then by torch.utils.benchmark, in one process."""
    torch.set_num_threads(1)
    call = Subject(cell).call
    call()
    benchmark.extra_info["single"] = fastest(call)
    benchmark(call)
    measured = [Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=0.1) for _ in range(3)]
    benchmark.extra_info["torch"] = min(time for m in measured for time in m.times)

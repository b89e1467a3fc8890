"""The timer on calls of known cost, and beside torch.utils.benchmark. Run by the section `timing` of the study."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hograd_bench.cells import Cell
from hograd_bench.metrics import Subject
from hograd_bench.metrics.time import collector_off, fastest
from torch.utils.benchmark import Timer

KNOWN = (2e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Seconds of the busy loops."""

TURNS = 25
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
    """A cell by pytest-benchmark; then by single calls and by torch.utils.benchmark in turns.

    In turns, because a shared machine has slow spells of seconds, which would fall on one instrument alone.
    """
    torch.set_num_threads(1)
    call = Subject(cell).call
    call()
    benchmark(call)
    timer = Timer("call()", globals={"call": call})
    ours, theirs = [], []
    with collector_off():
        for _ in range(TURNS):
            ours.append(fastest(call))
            theirs += timer.blocked_autorange(min_run_time=0.02).times
    benchmark.extra_info["single"] = min(ours)
    benchmark.extra_info["torch"] = min(theirs)

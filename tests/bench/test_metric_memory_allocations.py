"""The allocation instrument against programs counted by hand, and its own hygiene."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import weakref
from typing import Any

import pytest
import torch
from hograd_bench.metrics._allocations import AllocationTrace, quiet_collector, settle, settled, trace
from hypothesis import given, settings
from hypothesis import strategies as st
from studies.validation.programs import PROGRAMS, Expected, Program
from torch import Tensor

# PyTorch compiles its forward-mode decompositions with this at first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def counted(taken: AllocationTrace) -> Expected:
    return Expected(
        taken.peak_bytes,
        taken.total_bytes,
        taken.allocations,
        taken.returned_bytes,
        taken.retained_bytes,
        taken.collected_bytes,
    )


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
def test_equals_the_hand_count(program: Program) -> None:
    program.build()()  # warm up
    taken = trace(program.build())
    assert counted(taken) == program.expected
    assert sum(held.bytes for held in taken.attribution) == taken.peak_bytes


steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 5000)),
        st.tuples(st.just("release"), st.integers(0, 30)),
        st.tuples(st.just("view"), st.integers(0, 30)),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(steps)
def test_any_order_of_blocks(program: list[tuple[str, int]]) -> None:
    """Against a simulation: names refer to blocks, views share them, a block goes when its last name goes."""

    def call() -> list[Tensor]:
        names: list[Tensor] = []
        for what, number in program:
            if what == "take":
                names.append(torch.empty(number, dtype=torch.uint8))
            elif names and what == "release":
                del names[number % len(names)]
            elif names:
                names.append(names[number % len(names)][1:])
        return names

    blocks: list[int] = []
    names: list[int] = []
    peak = total = 0
    for what, number in program:
        if what == "take":
            blocks.append(number)
            names.append(len(blocks) - 1)
            total += number
        elif names and what == "release":
            del names[number % len(names)]
        elif names:
            names.append(names[number % len(names)])
        peak = max(peak, sum(blocks[b] for b in set(names)))
    left = sum(blocks[b] for b in set(names))

    taken = trace(call)
    assert counted(taken) == Expected(peak, total, len(blocks), left)
    assert taken.result_bytes == left


@pytest.mark.parametrize("position", ["forward", "backward"])
def test_a_planted_vector_is_seen_as_exactly_its_bytes(position: str) -> None:
    n, itemsize = 257, 4

    class Planted(torch.autograd.Function):
        generate_vmap_rule = True
        extra = 0

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.planted = torch.empty(Planted.extra) if position == "forward" else None

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            planted = torch.empty(Planted.extra) if position == "backward" else ctx.planted
            g = g.clone()
            del planted
            return g

    x = torch.ones(n).requires_grad_()

    def call() -> Tensor:
        (g,) = torch.autograd.grad(Planted.apply(x).sum(), x)
        return g

    peaks = {}
    for Planted.extra in (0, n):
        call()
        taken = trace(call)
        peaks[Planted.extra] = taken.peak_bytes
    assert peaks[n] - peaks[0] == n * itemsize
    rows = [held for held in taken.attribution if held.op == "aten::empty"]
    phase = "forward" if position == "forward" else "backward 1"
    assert [(held.phase, held.bytes) for held in rows] == [(phase, n * itemsize)]


def test_of_equal_peaks_the_first_is_attributed() -> None:
    def call() -> None:
        a = torch.empty(100)
        del a
        b = torch.zeros(100)
        del b

    assert [(held.op, held.bytes) for held in trace(call).attribution] == [("aten::empty", 400)]


def test_threads_of_an_operator_do_not_change_elementwise_memory() -> None:
    x = torch.ones(200_000)

    def call() -> Tensor:
        return (x + x).exp()

    before = torch.get_num_threads()
    taken = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            call()
            taken.append(trace(call))
    finally:
        torch.set_num_threads(before)
    assert taken[0] == taken[1]
    assert taken[0].peak_bytes == 2 * 800_000


def test_result_bytes_look_into_containers_and_objects() -> None:
    class Answer:
        def __init__(self) -> None:
            self.nested = {"a": [torch.ones(10), torch.ones(20)[5:]]}

    assert trace(Answer).result_bytes == 40 + 80
    assert trace(lambda: 3.0).result_bytes == 0


def test_a_failing_call_leaves_nothing_behind() -> None:
    def call() -> None:
        raise ZeroDivisionError("mine")

    engine = torch.autograd.graph._engine_run_backward
    gc.enable()
    with pytest.raises(ZeroDivisionError, match="mine"):
        trace(call)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert torch.autograd.graph._engine_run_backward is engine
    assert torch.autograd._engine_run_backward is engine
    assert trace(lambda: torch.ones(10)).peak_bytes == 40


@pytest.mark.parametrize("process", [contextlib.nullcontext, settled])
def test_garbage_of_earlier_work_is_not_charged(process: Any) -> None:
    gc.disable()
    with process():
        cycle: list[Any] = [torch.ones(1000)]
        cycle.append(cycle)
        del cycle
        with quiet_collector():
            pass
        taken = trace(lambda: torch.ones(10))
    gc.enable()
    assert counted(taken) == Expected(40, 40, 1, 40)


@pytest.mark.slow
def test_a_process_that_has_settled_collects_what_its_cells_made() -> None:
    """And leaves the collector as it was."""

    class Cycle:
        def __init__(self) -> None:
            self.held = self

    gc.unfreeze()
    with settled():
        frozen = gc.get_freeze_count()
        made = weakref.ref(Cycle())
        trace(lambda: torch.ones(10))
        assert made() is None
        assert gc.get_freeze_count() > 0.99 * frozen > 100_000
    assert gc.get_freeze_count() == 0


def test_between_cells_garbage_goes_and_collections_no_longer_look_at_what_stays() -> None:
    kept: list[Any] = [[]]
    cycle: list[Any] = [torch.ones(10)]
    made = weakref.ref(cycle[0])
    cycle.append(cycle)
    del cycle
    settle()
    assert made() is None
    assert not any(found is kept for found in gc.get_objects())
    gc.unfreeze()
    assert any(found is kept for found in gc.get_objects())


@pytest.mark.slow
def test_the_profiler_writes_nothing() -> None:
    code = "import torch; from hograd_bench.metrics._allocations import trace; trace(lambda: torch.ones(9))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")

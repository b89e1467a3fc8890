"""Which phase of a call memory is attributed to: forward, the kth backward, tangents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hograd_bench.metrics._allocations import trace
from hograd_bench.metrics._phases import EngineLog, EngineRun, Phases, Timeline
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

# PyTorch compiles its forward-mode decompositions with this at first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


class Heavy(torch.autograd.Function):
    """Identity whose backward takes, for its own time, a block of ``elements``."""

    elements = 0

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        block = torch.empty(Heavy.elements)
        g = Heavy.apply(g)
        del block
        return g


def phases_at_peak(call: Callable[[], Any]) -> dict[str, int]:
    call()
    rows: dict[str, int] = {}
    for held in trace(call).attribution:
        rows[held.phase] = rows.get(held.phase, 0) + held.bytes
    return rows


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_kth_backward_is_named(order: int) -> None:
    x = torch.ones((), requires_grad=True)

    def call() -> Tensor:
        y = Heavy.apply(x) ** (order + 1)
        for k in range(order):
            Heavy.elements = 1000 * (k + 1)  # the largest block falls into the last backward
            (y,) = torch.autograd.grad(y, x, create_graph=k + 1 < order)
        return y

    call()
    largest = trace(call).attribution[0]
    found = (largest.phase, largest.op, largest.within, largest.bytes)
    assert found == (f"backward {order}", "aten::empty", "HeavyBackward", 4000 * order)


def test_every_row_of_a_hessian_is_a_second_backward() -> None:
    x = torch.ones(6, requires_grad=True)

    def call() -> Tensor:
        (g,) = torch.autograd.grad((x.sin() * x).sum(), x, create_graph=True)
        return torch.stack([torch.autograd.grad(entry, x, retain_graph=True)[0] for entry in g])

    phases = set(phases_at_peak(call))
    assert "backward 2" in phases
    assert phases <= {"forward", "backward 1", "backward 2"}


def test_order_survives_operations_between_backwards() -> None:
    """The second derivative's root is made outside every backward; it is of order 2 all the same."""
    x = torch.ones(100, requires_grad=True)

    def call() -> Tensor:
        (g,) = torch.autograd.grad(x.sin().sum(), x, create_graph=True)
        (h,) = torch.autograd.grad((g * g).sum(), x)
        return h

    phases = set(phases_at_peak(call))
    assert "backward 2" in phases
    assert "backward 3" not in phases


def test_forward_mode_is_named() -> None:
    x = torch.ones(100)

    def f(x: Tensor) -> Tensor:
        return x.sin().exp().sum()

    phases = set(phases_at_peak(lambda: torch.func.jvp(torch.func.grad(f), (x,), (x,))[1]))
    assert phases <= {"forward", "forward + tangents", "backward 1 + tangents"}
    assert "backward 1 + tangents" in phases
    assert set(phases_at_peak(lambda: torch.func.jvp(f, (x,), (x,))[1])) == {"forward + tangents"}
    nested = phases_at_peak(lambda: torch.func.grad(lambda y: torch.func.grad(f)(y).sin().sum())(x))
    assert "backward 2" in nested


def test_the_order_of_a_backward_is_that_of_the_nodes_it_evaluates() -> None:
    log = EngineLog([EngineRun(0, 1, 5), EngineRun(5, 1, 6)])
    engine, evaluated = [(10, 20), (30, 40)], [(12, 0), (32, 3)]
    known = Phases(engine, log, [(35, 50)], evaluated)
    assert [known.name(m) for m in (0, 10, 25, 30, 36, 45)] == [
        "forward",
        "backward 1",
        "forward",
        "backward 2",
        "backward 2 + tangents",
        "forward + tangents",
    ]


intervals = st.recursive(
    st.just([]),
    lambda inner: st.lists(st.tuples(st.integers(1, 3), inner, st.integers(1, 3)), max_size=4),
    max_leaves=8,
)


def lay_out(tree: list[Any], start: int, found: list[tuple[int, int]]) -> int:
    for before, inner, after in tree:
        start += before
        index = len(found)
        found.append((start, start))
        end = lay_out(inner, start, found) + after
        found[index] = (start, end)
        start = end
    return start


@given(intervals)
def test_timeline_against_a_search(tree: list[Any]) -> None:
    found: list[tuple[int, int]] = []
    end = lay_out(tree, 0, found)
    timeline = Timeline(found)
    for moment in range(-1, end + 2):
        containing = [i for i, (a, b) in enumerate(found) if a <= moment < b]
        assert timeline.at(moment) == (containing[-1] if containing else None)

"""Counts of calls: autograd nodes, evaluations of f, dispatches; by hand and by walking the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hograd_bench.cells import Cell
from hograd_bench.metrics import Missing, Subject, counts
from hograd_bench.metrics.counts import counted
from torch import Tensor

import hograd_core

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

HVP = "derivative_vector_product"


def nodes(call: Callable[[], Any]) -> int:
    call()
    return counted(call)[1]


def walk(root: Tensor) -> int:
    """Nodes reachable from a tensor's grad_fn, leaves' accumulators aside."""
    seen: set[Any] = set()
    waiting = [root.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or node.name().endswith("AccumulateGrad"):
            continue
        seen.add(node)
        waiting.extend(following for following, _ in node.next_functions)
    return len(seen)


def chain(x: Tensor, depth: int) -> Tensor:
    for _ in range(depth):
        x = x.sin()
    return x.sum()


@pytest.mark.parametrize("depth", [0, 1, 7])
def test_nodes_of_a_chain(depth: int) -> None:
    x = torch.ones(5, requires_grad=True)
    assert nodes(lambda: chain(x, depth)) == walk(chain(x, depth)) == depth + 1


def test_the_engine_stays_in_the_thread_that_counts() -> None:
    """Where a GPU's nodes would be evaluated in a thread of theirs, those made there would not be counted."""
    seen: list[bool] = []
    before = torch.autograd.is_multithreading_enabled()
    counted(lambda: seen.append(torch.autograd.is_multithreading_enabled()))
    assert seen == [False]
    assert torch.autograd.is_multithreading_enabled() is before is True


def test_nodes_without_a_tape() -> None:
    x = torch.ones(5)
    assert nodes(lambda: chain(x, 3)) == 0
    assert nodes(lambda: torch.func.jvp(lambda y: chain(y, 3), (x,), (x,))) == 0


def test_nodes_of_second_order() -> None:
    x = torch.ones(5, requires_grad=True)

    def gradient() -> Tensor:
        (g,) = torch.autograd.grad(chain(x, 2), x, create_graph=True)
        return g

    # f: 2 sin, 1 sum. Recorded backward: 2 cos, 2 products, and no node for the constant cotangent's expansion.
    assert nodes(gradient) == 3 + 4
    # The gradient's own graph reaches the inner sin and all of the four, but neither the outer sin nor the sum.
    assert walk(gradient()) == 5


def test_the_engines_own_root_is_no_node() -> None:
    x = torch.ones(5, requires_grad=True)

    def call() -> Any:
        return torch.autograd.grad([x.sin().sum(), x.cos().sum()], x)

    assert nodes(call) == 4


def test_dead_nodes_count_as_created() -> None:
    x = torch.ones(5, requires_grad=True)

    def call() -> Tensor:
        x.exp().cos()
        return x.sin()

    assert nodes(call) == 3


def test_every_level_of_a_transform_records_its_own() -> None:
    x = torch.ones(5)
    once = nodes(lambda: torch.func.grad(lambda y: chain(y, 2))(x))
    assert once == 3 + 4  # torch.func.grad records its backward, whether or not it is differentiated again
    twice = nodes(lambda: torch.func.grad(lambda y: torch.func.grad(lambda z: chain(z, 2))(y).sum())(x))
    assert twice >= 2 * once


@pytest.mark.parametrize(("method", "calls"), [("double_backward", 1), ("jvp_of_grad", 1), ("finite_difference", 2)])
def test_evaluations_of_f(method: str, calls: int) -> None:
    read = counts.measure(Subject(Cell(HVP, method, "mlp", 4)))
    assert read.values["f_calls"] == calls


def test_measure_gives_every_metric_and_its_tables() -> None:
    read = counts.measure(Subject(Cell("derivative_tensor", "rows", "mlp", 6)))
    assert set(read.values) == {metric.name for metric in counts.METRICS}
    assert not any(isinstance(value, Missing) for value in read.values.values())
    assert sum(read.details["aten_by_op"].values()) == read.values["aten_calls"]
    assert sum(read.details["flops_by_op"].values()) == read.values["flops"]
    assert read.values["flops_coverage"] == 1.0
    assert read.values["arithmetic_intensity"] == read.values["flops"] / read.values["moved_bytes"]
    most = list(read.details["aten_by_op"].values())
    assert most == sorted(most, reverse=True)


def test_rows_take_a_sweep_each() -> None:
    def tanh_backwards(n: int) -> int:
        read = counts.measure(Subject(Cell("derivative_tensor", "rows", "mlp", n)))
        return int(read.details["aten_by_op"]["aten.tanh_backward"])

    # A row passes the one tanh of f twice: in the gradient's graph and in f's.
    assert tanh_backwards(9) - tanh_backwards(4) == 2 * 5


def test_an_operator_without_f_has_no_f_calls() -> None:
    without = [o for o in hograd_core.operators().values() if "f" not in o.inputs]
    if not without:
        pytest.skip("every operator takes f")
    from hograd_bench import problems

    for operator in without:
        fitting = [p for p in problems.problems().values() if set(operator.inputs) - {"x", "v"} <= set(p.provides)]
        if fitting:
            cell = Cell(operator.name, operator.default, fitting[0].name, 4, batch=2)
            read = counts.measure(Subject(cell))
            assert read.values["f_calls"] == Missing(f"{operator.name} takes no f")
            return
    pytest.skip("no problem provides what an operator without f needs")


def test_counts_do_not_depend_on_what_ran_before() -> None:
    cell = Cell(HVP, "jvp_of_grad", "mlp", 5)
    first = counts.measure(Subject(cell))
    counts.measure(Subject(Cell("derivative_tensor", "func_hessian", "log_sum_exp", 7)))
    assert counts.measure(Subject(cell)) == first

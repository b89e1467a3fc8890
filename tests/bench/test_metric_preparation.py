"""Prepared cells: what is made ready, what it costs, and that a cell measures what its name says."""

from __future__ import annotations

import pytest
import torch
from hograd_bench.cells import Cell
from hograd_bench.metrics import Missing, Subject, counts, preparation

import hograd_core
from hograd_core import UnsupportedError
from hograd_core.prepare.inductor import _compile

HVP = "derivative_vector_product"
NEEDS_COMPILER = pytest.mark.skipif(
    _compile.unavailable("cpu") is not None, reason=f"nothing compiles here: {_compile.unavailable('cpu')}"
)


@pytest.mark.parametrize(
    ("operator", "method"),
    [
        ("hessian_extreme_eigenvalues", "lanczos"),
        ("hessian_extreme_eigenvalues", "lobpcg"),
        ("newton_cg_step", "jvp_of_grad"),
        ("local_minimum", "newton_line_search"),
    ],
)
def test_what_draws_or_iterates_takes_prepared_products(operator: str, method: str) -> None:
    eager = Subject(Cell(operator, method, "rosenbrock", 6, dtype="float64"))
    made = Subject(Cell(operator, method, "rosenbrock", 6, dtype="float64", preparation="graph"))
    assert made.prepared is not None
    assert made.prepared.preparation == "graph"
    assert made.prepared.is_product_of(made.instance.f)
    assert torch.allclose(made.call(), eager.call(), rtol=1e-6)
    assert made.prepared.traces == 1


def test_the_whole_method_is_prepared_where_it_can_be() -> None:
    made = Subject(Cell("hessian_diagonal", "columns", "rosenbrock", 6, preparation="graph"))
    assert made.prepared is not None
    assert not made.prepared.is_product_of(made.instance.f)


def test_no_cell_bears_the_name_of_a_preparation_that_it_has_not() -> None:
    with pytest.raises(UnsupportedError, match="prepared are operators of"):
        Subject(Cell("cubic_newton_step", "dense", "rosenbrock", 6, preparation="graph"))


def test_readings() -> None:
    subject = Subject(Cell(HVP, "double_backward", "rosenbrock", 8, preparation="graph"))
    read = preparation.measure(subject)
    made = hograd_core.prepare(hograd_core.hvp, subject.instance.f, subject.instance.x, preparation="graph")
    made(subject.instance.x, torch.ones_like(subject.instance.x))
    assert made.operations is not None
    assert read.values["graph_operations"] == sum(made.operations.values())
    assert read.values["graph_peak_bytes"] == made.peak_bytes
    assert read.values["first_preparation_seconds"] > 0


@pytest.mark.parametrize("how", ["graph", pytest.param("compiled", marks=NEEDS_COMPILER)])
def test_work_that_is_not_dispatched_is_not_counted_as_none(how: str) -> None:
    subject = Subject(Cell(HVP, "double_backward", "mlp", 8, preparation=how))
    read = counts.measure(subject).values
    if how == "graph":
        assert read["flops"] >= 2 * 2 * 8 * 8  # two products with the matrix at least
    else:
        assert isinstance(read["flops"], Missing)
        assert isinstance(read["moved_bytes"], Missing)
        assert "without dispatching" in read["flops"].reason


def test_calls_until_preparing_has_paid() -> None:
    assert preparation.breakeven(1.0, before=0.3, after=0.1) == 5
    assert preparation.breakeven(1.1, before=0.3, after=0.1) == 6
    assert isinstance(preparation.breakeven(1.0, before=0.1, after=0.1), Missing)

"""One loop over every operator x method x problem x order x dtype x shape, against the reference.

A new operator, method or problem is in the loop as soon as it is declared. What PyTorch cannot do is data:
unsupported.toml says which combinations and why, and a difference in either direction fails.
"""

from __future__ import annotations

import pytest
import torch
from conformance_loop import (
    ORDERS,
    agrees,
    expected_unsupported,
    fits,
    loop,
    make_case,
    orders,
    orders_of,
    reshaped,
)
from hograd_bench import problems

import hograd_core
from hograd_core import reference

# A batching rule that PyTorch lacks, with a slow fallback, is no error.
pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    # The truth says so here.
    pytest.mark.filterwarnings("ignore::hograd_core.NotFiniteWarning"),
]


# The fast loop has these in every dtype, and the others, which take seconds, in float32.
QUICK = {"log_sum_exp", "mlp_loss", "powers", "separable_exp", "sin_chain", "softmax_regression", "tanh_chain"}
PROBLEMS = [
    pytest.param(name, dtype, marks=() if dtype == torch.float32 or name in QUICK else pytest.mark.slow)
    for name in sorted(problems.problems())
    for dtype in ORDERS
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), PROBLEMS, ids=str)
def test_every_method_agrees_with_the_reference(name: str, dtype: torch.dtype) -> None:
    agrees(name, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "shape"), [(1, ()), (1, (1, 1)), (4, (2, 2)), (6, (1, 3, 2))])
@pytest.mark.parametrize("name", ["log_sum_exp", "mlp", "polynomial"])
def test_any_shape_of_x(name: str, n: int, shape: tuple[int, ...]) -> None:
    case = make_case(name, torch.float64, n)
    if case.instance.x.numel() != n:
        pytest.skip(f"{name} has no instance of {n} elements")
    outcomes = list(loop(reshaped(case, *shape), hograd_core.operators(), range(1, 4)))
    assert [str(o) for o in outcomes if o.status != "ok"] == []
    assert {o.operator for o in outcomes} >= {"gradient", "derivative_tensor", "derivative_vector_product"}


def test_every_entry_of_the_table_names_what_exists() -> None:
    for operator, method, problem, order, _ in expected_unsupported():
        assert hograd_core.operators()[operator].method(method).supports(order)
        assert problem in problems.problems()


@pytest.mark.parametrize("name", sorted(hograd_core.operators()))
def test_every_operator_has_a_truth(name: str) -> None:
    assert reference.has_truth(name)


def test_every_method_is_tried_and_supported_somewhere() -> None:
    refused = {entry[:4] for entry in expected_unsupported()}
    supported = {
        (operator.name, method.name)
        for case in (make_case(name, torch.float64) for name in problems.problems())
        for operator in hograd_core.operators().values()
        if fits(operator, case.instance)
        for order in orders_of(operator, case, orders(case.problem, torch.float64))
        for method in operator.methods.values()
        if method.supports(order) and (operator.name, method.name, case.problem, order) not in refused
    }
    assert supported == {(o.name, m) for o in hograd_core.operators().values() for m in o.methods}

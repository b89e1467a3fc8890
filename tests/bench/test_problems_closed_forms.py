"""Closed forms against nested autograd in float64, entry by entry; and the loop that does it notices mistakes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import mpmath
import pytest
import torch
from hograd_bench import problems
from hograd_bench.problems import ClosedForm, Instance, Problem, Spec
from torch import Tensor

# Other tests may load problem files of their own into the same process.
OURS = {name: p for name, p in problems.problems().items() if p.build.__module__.startswith("hograd_bench.problems.")}
KNOWN = [pytest.param(p, id=name) for name, p in OURS.items() if p.instance(Spec(2)).closed_form is not None]
ALL_ORDERS = {
    "arrowhead",
    "checkpointed_chain",
    "linear",
    "log_sum_exp",
    "matrix_factorization",
    "mlp",
    "newton_softmax",
    "polynomial",
    "powers",
    "quadratic",
    "rational",
    "ring",
    "rosenbrock",
    "separable_exp",
    "sin_chain",
    "softmax_regression",
    "surface",
    "tanh_chain",
}


def nested_tensor(f: Callable[[Tensor], Tensor], x: Tensor, order: int) -> Tensor:
    """All entries of D^order f(x), each by its own chain of gradients."""
    x = x.clone().requires_grad_(True)
    level = [f(x)]
    for step in range(order):
        entries: list[Tensor] = []
        for scalar in level:
            gradient = torch.zeros_like(x)
            if scalar.requires_grad:
                (gradient,) = torch.autograd.grad(
                    scalar,
                    x,
                    create_graph=step < order - 1,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            entries.extend(gradient.reshape(-1).unbind())
        level = entries
    return torch.stack(level).detach().reshape(x.shape * order)


def disagreements(closed: ClosedForm, instance: Instance, order: int) -> list[str]:
    """Which of tensor, product and directional differ from nested autograd beyond rounding."""
    truth = nested_tensor(instance.f, instance.x, order)
    v = instance.v
    assert v is not None
    n = v.numel()
    contracted = truth.reshape((n,) * order)
    for _ in range(order - 1):
        contracted = contracted @ v.reshape(-1)
    scale = truth.norm()
    expected = {
        "tensor": (closed.tensor, (order,), truth, scale),
        "product": (closed.product, (order, v), contracted.reshape(v.shape), scale * v.norm() ** (order - 1)),
        "directional": (closed.directional, (order, v), (contracted @ v.reshape(-1)), scale * v.norm() ** order),
    }
    wrong = []
    for name, (function, arguments, right, size) in expected.items():
        if function is None:
            continue
        value = function(*arguments)  # type: ignore[operator]
        if value is None:
            continue
        if value.shape != right.shape or value.dtype != right.dtype or (value - right).norm() > 1e-12 * size:
            wrong.append(name)
    return wrong


def orders_for(instance: Instance) -> range:
    """As many orders as keep the entries under 260: order 5 for three variables, 3 for six."""
    n = instance.x.numel()
    return range(1, 1 + next(k for k in (6, 5, 4, 3, 2) if n**k <= 260 or k == 2))


def test_known_problems_have_closed_forms_of_every_kind() -> None:
    assert {p.values[0].name for p in KNOWN} == ALL_ORDERS
    for param in KNOWN:
        closed = param.values[0].instance(Spec(2)).closed_form  # type: ignore[attr-defined]
        assert closed.product is not None
        assert closed.directional is not None
        assert closed.tensor is not None or param.values[0].name == "mlp"  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("problem", KNOWN)
def test_closed_form_agrees_with_nested_autograd(problem: Problem) -> None:
    one_size = set(problem.sizes) == {"n"}
    further = ((1, 1),) if one_size else ((1, 1), (4, 3))
    for spec in (Spec(n, depth, batch) for n in (1, 2, 3, 5) for depth, batch in further):
        if problem.name in ("arrowhead", "rosenbrock") and spec.n == 1:
            continue
        instance = problem.instance(spec)
        assert instance.closed_form is not None
        for order in orders_for(instance):
            assert disagreements(instance.closed_form, instance, order) == [], (spec, order)


@pytest.mark.parametrize("problem", KNOWN)
def test_product_and_directional_at_larger_size(problem: Problem) -> None:
    instance = problem.instance(Spec(40, 5, 6))
    closed, v = instance.closed_form, instance.v
    assert closed is not None
    assert closed.product is not None
    assert closed.directional is not None
    assert v is not None
    x = instance.x.clone().requires_grad_(True)
    scalar = instance.f(x)
    for order in range(1, 5):
        gradient = torch.zeros_like(x)
        if scalar.requires_grad:
            (gradient,) = torch.autograd.grad(scalar, x, create_graph=True, allow_unused=True, materialize_grads=True)
        scalar = (gradient * v).sum()
        # The sum runs over terms that cancel: compare with their absolute sum.
        known = gradient.detach()
        size = float((known * v).abs().sum())
        product, directional = closed.product(order, v), closed.directional(order, v)
        assert product is not None
        assert directional is not None
        torch.testing.assert_close(product, known, rtol=1e-10, atol=1e-11 * float(known.norm()))
        torch.testing.assert_close(directional, scalar.detach(), rtol=0, atol=1e-11 * size)


@pytest.mark.parametrize("problem", KNOWN)
def test_closed_form_keeps_the_dtype(problem: Problem) -> None:
    instance = problem.instance(Spec(2, 2, 2), torch.float32)
    closed, v = instance.closed_form, instance.v
    assert closed is not None
    assert v is not None
    for order in (1, 2, 3):
        values = [
            closed.tensor(order) if closed.tensor else None,
            closed.product(order, v) if closed.product else None,
            closed.directional(order, v) if closed.directional else None,
        ]
        assert {value.dtype for value in values if value is not None} == {torch.float32}


def test_sin_chain_against_mpmath_beyond_the_reach_of_nesting() -> None:
    instance = problems.get("sin_chain").instance(Spec(1, 3))
    closed = instance.closed_form
    assert closed is not None
    assert closed.tensor is not None
    with mpmath.workdps(40):
        coefficients = mpmath.taylor(
            lambda t: mpmath.sin(mpmath.sin(mpmath.sin(t))), mpmath.mpf(float(instance.x[0])), 10
        )
        for order in range(1, 11):
            truth = float(coefficients[order] * mpmath.factorial(order))
            value = closed.tensor(order)
            assert value is not None
            assert float(value.reshape(())) == pytest.approx(truth, rel=1e-11)


def _scaled(order: int, value: Tensor) -> Tensor:
    return value * 1.001


def _zeroed(order: int, value: Tensor) -> Tensor:
    return torch.zeros_like(value)


def _without_cross_term(order: int, value: Tensor) -> Tensor:
    mutated = value.clone()
    mutated.reshape(value.shape[0], -1)[0, 1] = 0
    return mutated


def _permuted(order: int, value: Tensor) -> Tensor:
    return value.flip(0)


@pytest.mark.parametrize("mutation", [_scaled, _zeroed, _permuted])
@pytest.mark.parametrize("problem", KNOWN)
def test_a_wrong_closed_form_is_noticed(problem: Problem, mutation: Callable[[int, Tensor], Tensor]) -> None:
    instance = problem.instance(Spec(3, 2, 2))
    closed = instance.closed_form
    assert closed is not None
    tensor, product = closed.tensor, closed.product
    assert product is not None
    wrong_product = dataclasses.replace(closed, product=lambda k, v: mutation(k, product(k, v)))  # type: ignore[arg-type]
    assert disagreements(wrong_product, instance, 1) == ["product"]
    if tensor is not None:
        wrong_tensor = dataclasses.replace(closed, tensor=lambda k: mutation(k, tensor(k)))  # type: ignore[arg-type]
        assert disagreements(wrong_tensor, instance, 1) == ["tensor"]


@pytest.mark.parametrize(
    "name", ["polynomial", "quadratic", "ring", "rosenbrock", "log_sum_exp", "matrix_factorization", "surface"]
)
def test_a_dropped_cross_term_is_noticed(name: str) -> None:
    instance = problems.get(name).instance(Spec(3))
    closed = instance.closed_form
    assert closed is not None
    tensor = closed.tensor
    assert tensor is not None
    wrong = dataclasses.replace(closed, tensor=lambda k: _without_cross_term(k, tensor(k)))  # type: ignore[arg-type]
    assert disagreements(wrong, instance, 2) == ["tensor"]


def test_polynomial_has_distinct_off_diagonal_entries() -> None:
    """So that a kernel that transposes or drops entries of an order-3 tensor cannot pass by symmetry of the problem."""
    instance = problems.get("polynomial").instance(Spec(3))
    third = nested_tensor(instance.f, instance.x, 3)
    classes = itertools.combinations_with_replacement(range(3), 3)
    values = [float(third[index]) for index in classes if len(set(index)) > 1]
    assert len(values) == 7
    assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) > 1e-3

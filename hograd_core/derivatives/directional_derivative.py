"""Dᵏf(x)[v, …, v] = dᵏ/dtᵏ f(x + tv) at t = 0: a scalar."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from hograd_core._checks import Function, ScalarFunction, T, check_direction, check_point, scalar_function
from hograd_core._differences import check_derivative
from hograd_core._entrance import kept
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core._unsupported import UnsupportedError
from hograd_core.derivatives._autograd import grad_or_zeros, leaf, refuse_once_differentiable
from hograd_core.derivatives.derivative_vector_product import TensorFunction, contract, pushforward


@operator(
    result="scalar", linear=True, default="nested_grad", verification=functools.partial(check_derivative, slots=0)
)
def directional_derivative(f: Function[T], x: T, v: T, order: int = 2, **how: Unpack[How]) -> Tensor:
    """The k-th derivative of t ↦ f(x + tv) at t = 0, that is Dᵏf(x)[v, …, v].

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.
        v: the direction: shape, dtype and device of x.
        order: k >= 1; 2 is the curvature vᵀHv.

    Returns:
        A detached 0-dimensional tensor with the dtype and device of x.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional, or v does not pair with x.
        UnsupportedError: PyTorch has no formula for a step of f by this method.
    """
    point = check_point(x)
    return to_method(scalar_function(f), point, check_direction(v, point))


@method(
    directional_derivative,
    "nested_grad",
    mode="reverse, k deep",
    source="Pearlmutter 1994, §3, iterated; torch.autograd.grad(create_graph=True)",
)
def nested_grad(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """Iterate s ← ⟨∇s, v⟩ k times. Each sweep but the last records a graph of itself."""
    point = leaf(x)
    s = f(point)
    for remaining in range(order - 1, -1, -1):
        s = contract(grad_or_zeros(s, point, create_graph=remaining > 0), v)
    return s


@functools.cache
def _cycle_warning_given() -> None:
    """Use up, unseen, the warning that PyTorch gives once a process about backward(create_graph=True).

    It warns of a reference cycle through ``.grad``, which the method below breaks.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = torch.ones((), requires_grad=True)
        torch.autograd.backward(t * t, create_graph=True, inputs=[t])
        t.grad = None


@method(
    directional_derivative,
    "nested_backward",
    mode="reverse, k deep",
    source="torch.Tensor.backward(create_graph=True); the leak through .grad: pytorch/pytorch#7343",
)
def nested_backward(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """The same through ``.grad`` of a private leaf.

    The leaf owns its ``.grad``, whose graph owns the leaf: a cycle that no collector sees. It is broken by
    taking ``.grad`` away after each sweep.
    """
    if kept():
        raise UnsupportedError(
            "directional_derivative[nested_backward]",
            "no graph through .grad: its result cannot be differentiated further; use method='nested_grad'",
        )
    _cycle_warning_given()
    point = leaf(x)
    s = f(point)
    for remaining in range(order - 1, -1, -1):
        if not s.requires_grad:
            return torch.zeros_like(s)
        try:
            torch.autograd.backward(s, create_graph=remaining > 0, inputs=[point])
            g = point.grad
        finally:
            point.grad = None
        if g is None:
            refuse_once_differentiable(s)
            return torch.zeros_like(s, requires_grad=False)
        s = contract(g, v)
    return s


@method(
    directional_derivative,
    "nested_jvp",
    mode="forward, k deep",
    source="Griewank & Walther 2008, §13 (nested tangents: 2ᵏ coefficients); torch.func.jvp",
    functorch=True,
)
def nested_jvp(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """Forward mode over itself, k times: no tape, and operations that grow as 2ᵏ."""
    h: TensorFunction = f
    for _ in range(order):
        h = functools.partial(pushforward, h, v)
    # The cast: 0.5 * y of a 0-dimensional float32 y has a float64 tangent in PyTorch 2.13, a Python number's tensor
    # losing its lower rank in type promotion.
    return h(x).to(x.dtype)

"""Dᵏf(x)[v, …, v, ·]: the k-th derivative contracted k-1 times with one direction. Order 2: the HVP, Hv."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from hograd_core._checks import Function, ScalarFunction, T, check_direction, check_point, scalar_function
from hograd_core._differences import check_derivative
from hograd_core._entrance import kept
from hograd_core._forward import jvp
from hograd_core._how import How, Unpack
from hograd_core._registry import alias, method, operator, to_method
from hograd_core.derivatives._autograd import grad_or_zeros, leaf

TensorFunction = Callable[[Tensor], Tensor]


@operator(result="x", linear=True, default="double_backward", verification=functools.partial(check_derivative, slots=1))
def derivative_vector_product(f: Function[T], x: T, v: T, order: int = 2, **how: Unpack[How]) -> T:
    """The derivative of ``order``, contracted with v in all slots but one: Dᵏf(x)[v, …, v, ·].

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.
        v: the direction: shape, dtype and device of x. Order 1 does not use it.
        order: k >= 1; 2 is the Hessian-vector product.

    Returns:
        A detached tensor with the shape, dtype and device of x.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional, v does not pair with x, or the method lacks the order.
        UnsupportedError: PyTorch has no formula for a step of f by this method.
    """
    point = check_point(x)
    return to_method(scalar_function(f), point, check_direction(v, point))


@alias(derivative_vector_product, order=2)
def hvp(f: Function[T], x: T, v: T, **how: Unpack[How]) -> T:
    """The Hessian-vector product ∇²f(x) v; the Hessian is never formed.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.
        v: the direction: shape, dtype and device of x.
        **how: ``method``, one of ``derivative_vector_product`` (double backward unless given), and its options.

    Returns:
        A detached tensor with the shape, dtype and device of x.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional, v does not pair with x, or there is no such method.
        UnsupportedError: PyTorch has no formula for a step of f by this method.
    """
    return derivative_vector_product(f, x, v, 2, **how)


def contract(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products over all elements, a 0-dimensional tensor."""
    return (a * b).sum()


@method(
    derivative_vector_product,
    "double_backward",
    mode="reverse over reverse, k deep",
    source="Pearlmutter 1994, §3 (∇(∇f·v)); torch.autograd.grad(create_graph=True)",
)
def double_backward(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """Run k reverse sweeps: s ← ⟨∇s, v⟩ k-1 times, then ∇s. Each sweep but the last records a graph of itself."""
    point = leaf(x)
    s = f(point)
    for _ in range(order - 1):
        s = contract(grad_or_zeros(s, point, create_graph=True), v)
    return grad_or_zeros(s, point, create_graph=False)


def _functional_directional(g: TensorFunction, v: Tensor, x: Tensor) -> Tensor:
    derivative: Tensor = torch.autograd.functional.jvp(g, x, v, create_graph=True)[1]  # type: ignore[no-untyped-call]
    return derivative


@method(
    derivative_vector_product,
    "functional_hvp",
    mode="reverse over reverse over reverse (forward emulated by two sweeps)",
    source="torch.autograd.functional.hvp, above order 2 of functional.jvp",
    min_order=2,
)
def functional_hvp(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """PyTorch's own product. Above order 2: its hvp of k-2 nested directional derivatives by functional.jvp."""
    g: TensorFunction = f
    for _ in range(order - 2):
        g = functools.partial(_functional_directional, g, v)
    product: Tensor = torch.autograd.functional.hvp(g, x, v, create_graph=kept())[1]  # type: ignore[no-untyped-call]
    return product


@method(
    derivative_vector_product,
    "functional_vhp",
    mode="reverse over reverse",
    source="torch.autograd.functional.vhp",
    min_order=2,
    max_order=2,
)
def functional_vhp(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """PyTorch's vᵀH, equal to Hv where the Hessian is symmetric; one sweep less than its hvp."""
    product: Tensor = torch.autograd.functional.vhp(f, x, v, create_graph=kept())[1]  # type: ignore[no-untyped-call]
    return product


def pushforward(g: TensorFunction, v: Tensor, x: Tensor) -> Tensor:
    """Dg(x)[v] by forward mode."""
    tangent: Tensor = jvp(g, (x,), (v,))[1]
    return tangent


def _pullback(g: TensorFunction, v: Tensor, x: Tensor) -> Tensor:
    cotangent: Tensor = torch.func.vjp(g, x)[1](v)[0]
    return cotangent


@method(
    derivative_vector_product,
    "jvp_of_grad",
    mode="forward over reverse, forward nested k-1 deep",
    source="Pearlmutter 1994, eq. 3 (the R-operator on the gradient); torch.func.jvp of torch.func.grad",
    functorch=True,
)
def jvp_of_grad(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """Directional derivatives of the gradient, in forward mode. No tape beyond the gradient's own."""
    g: TensorFunction = torch.func.grad(f)
    for _ in range(order - 1):
        g = functools.partial(pushforward, g, v)
    return g(x).to(x.dtype)


@method(
    derivative_vector_product,
    "grad_of_jvp",
    mode="reverse over forward, forward nested k-1 deep",
    source="Griewank & Walther 2008, §5.1 (second-order adjoints); torch.func.grad of torch.func.jvp",
    functorch=True,
)
def grad_of_jvp(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """The gradient of the (k-1)-th directional derivative; one reverse sweep over the forward computation."""
    h: TensorFunction = f
    for _ in range(order - 1):
        h = functools.partial(pushforward, h, v)
    derivative: Tensor = torch.func.grad(h)(x)
    return derivative.to(x.dtype)


@method(
    derivative_vector_product,
    "vjp_of_grad",
    mode="reverse over reverse, k deep",
    source="torch.func.vjp of torch.func.grad; equals Hv by the symmetry of H",
    functorch=True,
)
def vjp_of_grad(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """vᵀ∇g for the gradient g, and again for each further order, by the functional transforms."""
    g: TensorFunction = torch.func.grad(f)
    for _ in range(order - 1):
        g = functools.partial(_pullback, g, v)
    return g(x).to(x.dtype)


@method(
    derivative_vector_product,
    "double_vjp",
    mode="(reverse over reverse) over reverse: forward emulated by two reverse sweeps",
    source="Townsend 2017 (the double-vjp trick); the R-operator of Dangel, Kunstner & Hennig 2020 (BackPACK)",
)
def double_vjp(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """Dg[v] for the gradient g from two reverse sweeps: w ↦ (Dg)ᵀw is linear, and its transpose is Dg."""
    point = leaf(x)
    value = f(point)
    if order == 1:
        return grad_or_zeros(value, point, create_graph=False)
    g = grad_or_zeros(value, point, create_graph=True)
    del value
    for remaining in range(order - 2, -1, -1):
        w = torch.zeros_like(g).requires_grad_()
        pulled = grad_or_zeros(g, point, create_graph=True, grad_outputs=w)
        g = grad_or_zeros(pulled, w, create_graph=remaining > 0, grad_outputs=v)
    return g


def _difference_tolerance(eps: float, order: int) -> float:
    """Relative error to allow: truncation h² equals rounding eps/hᵐ at h = eps^(1/(m+2)); 300 covers constants."""
    m = order - 1
    return 300 * eps ** (2 / (m + 2)) if m else 300 * eps


@method(
    derivative_vector_product,
    "finite_difference",
    mode="central differences of order k-1 over reverse",
    source="Nocedal & Wright 2006, §8.1 (step by balancing errors); Fornberg 1988, Table 1 (central weights)",
    exact=False,
    tolerance=_difference_tolerance,
)
def finite_difference(f: ScalarFunction, x: Tensor, v: Tensor, *, order: int) -> Tensor:
    """Difference k gradients at points along v, no derivative of a derivative: δᵐ g/hᵐ with m = k-1.

    What f hides from autograd (``.detach()``, ``no_grad``, numpy) is differentiated too.
    The step balances truncation O(h²) against rounding O(eps/hᵐ): h = eps^(1/(m+2)) (1 + ‖x‖)/‖v‖.
    """
    m = order - 1
    length = torch.linalg.vector_norm(v, dtype=torch.promote_types(v.dtype, torch.float32)).item()
    if m > 0 and length == 0:
        return torch.zeros_like(x)
    size = torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32)).item()
    h = torch.finfo(x.dtype).eps ** (1 / (m + 2)) * (1 + size) / length if m else 1.0
    total = torch.zeros_like(x)
    for j in range(m + 1):
        point = leaf(x + ((m / 2 - j) * h) * v if m else x)
        total += (-1) ** j * math.comb(m, j) * grad_or_zeros(f(point), point, create_graph=False)
    return total / h**m

"""A use of third derivatives: how lopsided f is along a direction.

S = D³f(x)[v, v, v] / (D²f(x)[v, v])^{3/2} does not depend on the length of v nor, apart from its sign, on the scale of
the coordinates. f is self-concordant where |S| ≤ 2 for all v (Nesterov & Nemirovskii 1994, definition 2.1.1): there
Newton's method needs no other constant. In a Laplace approximation with density ∝ exp(−f), −S is to leading order the
skewness that the normal approximation misses along v.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hograd_core._checks import Function, ScalarFunction, T, check_direction, check_point, scalar_function
from hograd_core._entrance import released
from hograd_core._forward import jvp
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.derivatives._autograd import grad_or_zeros, leaf
from hograd_core.derivatives.derivative_vector_product import contract
from hograd_core.taylor import derivatives_along


class Skewness(NamedTuple):
    """Derivatives of t ↦ f(x + tv) at 0, detached 0-dimensional tensors.

    Attributes:
        skewness: third / second^{3/2}; NaN where the curvature along v is not positive.
        second: D²f(x)[v, v].
        third: D³f(x)[v, v, v].
    """

    skewness: Tensor
    second: Tensor
    third: Tensor


def _ratio(second: Tensor, third: Tensor) -> Skewness:
    second, third = released(second), released(third)
    return Skewness(torch.where(second > 0, third / second.clamp_min(0) ** 1.5, torch.nan), second, third)


@operator(result="scalar, with second and third derivative", default="taylor", order=3)
def directional_skewness(f: Function[T], x: T, v: T, **how: Unpack[How]) -> Skewness:
    """D³f(x)[v, v, v] / (D²f(x)[v, v])^{3/2}, with both derivatives.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.
        v: the direction: shape, dtype and device of x.

    Returns:
        A :class:`Skewness`.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional, or v does not pair with x.
        UnsupportedError: PyTorch has no formula for a step of f by this method.
    """
    point = check_point(x)
    return to_method(scalar_function(f), point, check_direction(v, point))


@method(
    directional_skewness, "taylor", mode="Taylor", source="Griewank & Walther 2008, §13.2", amounts_to=(("taylor", 3),)
)
def taylor(f: ScalarFunction, x: Tensor, v: Tensor) -> Skewness:
    """Both derivatives from one pass of degree 3."""
    _, _, second, third = derivatives_along(f, x, v, 3)
    return _ratio(second, third)


@method(
    directional_skewness,
    "nested_reverse",
    mode="reverse, 3 deep",
    source="Pearlmutter 1994, §3, iterated; torch.autograd.grad(create_graph=True)",
    amounts_to=(("nested_grad", 3),),
)
def nested_reverse(f: ScalarFunction, x: Tensor, v: Tensor) -> Skewness:
    """s ← ⟨∇s, v⟩ three times; the second derivative is met on the way."""
    point = leaf(x)
    found = [f(point)]
    for order in range(3):
        found.append(contract(grad_or_zeros(found[-1], point, create_graph=order < 2, retain_graph=True), v))
    return _ratio(found[2], found[3])


@method(
    directional_skewness,
    "nested_forward",
    mode="forward, 3 deep",
    source="Griewank & Walther 2008, §13 (nested tangents); torch.func.jvp",
    functorch=True,
    amounts_to=(("nested_jvp", 3),),
)
def nested_forward(f: ScalarFunction, x: Tensor, v: Tensor) -> Skewness:
    """Forward mode over itself; the innermost two give the second derivative as the primal of the third."""

    def along(h: Any, at: Tensor) -> Tensor:
        tangent: Tensor = jvp(h, (at,), (v,))[1]
        return tangent

    second = functools.partial(along, functools.partial(along, f))
    pair = jvp(second, (x,), (v,))
    # Nested forward mode takes some constants to float64.
    return _ratio(pair[0].to(x.dtype), pair[1].to(x.dtype))

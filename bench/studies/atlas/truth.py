"""Truth that shares nothing with the methods: central differences of float64 gradients, at two steps that must agree.

Only one plain reverse sweep is believed, and that only after it agrees with differences of values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ScalarFunction = Callable[[Tensor], Tensor]

STEPS = {2: (1e-3, 1e-4, 1e-5), 3: (4e-3, 1e-3, 3e-4, 1e-4)}
"""Steps tried in turn, each with its half, until two agree: large ones round least, small ones see kinks last."""
AGREE = {2: 1e-4, 3: 1e-3}
"""Relative difference allowed between the two steps: a tenth of what counts as wrong."""


NOT_THAT_OF_VALUES = "the gradient is not that of the values"


class DoubtError(ValueError):
    """No truth to be had here, and why."""


@dataclass(frozen=True)
class Truth:
    """What derivatives along v must be.

    Attributes:
        v: the direction.
        products: order k -> Dᵏf[v, …, v, ·].
        floor: sizes below this are those of rounding.
        doubts: order -> why there is no truth of that order.
    """

    v: Tensor
    products: dict[int, Tensor]
    floor: float
    doubts: dict[int, str]

    def scale(self, order: int) -> float:
        """Size that an error of that order is relative to."""
        return max(float(self.products[order].norm()), self.floor)


def gradient(f: ScalarFunction, x: Tensor) -> Tensor:
    """One plain reverse sweep."""
    point = x.detach().clone().requires_grad_()
    value = f(point)
    if not value.requires_grad:
        return torch.zeros_like(x)
    found: Tensor | None = torch.autograd.grad(value, point, allow_unused=True)[0]
    return torch.zeros_like(x) if found is None else found.detach()


def _value(f: ScalarFunction, x: Tensor) -> Tensor:
    # Of a point that requires grad: f may differentiate inside itself.
    return f(x.detach().clone().requires_grad_()).detach()


def _finite(tensor: Tensor, what: str) -> Tensor:
    if not bool(tensor.isfinite().all()):
        raise DoubtError(f"{what} is not finite")
    return tensor


def _difference(f: ScalarFunction, x: Tensor, v: Tensor, order: int, h: float) -> Tensor:
    above, below = gradient(f, x + h * v), gradient(f, x - h * v)
    if order == 2:
        return (above - below) / (2 * h)
    return (above - 2 * gradient(f, x) + below) / h**2


def product(f: ScalarFunction, x: Tensor, v: Tensor, order: int, floor: float) -> Tensor:
    """Dᵏf(x)[v, …, v, ·] for k = 2, 3.

    Raises:
        DoubtError: no two steps agree, or a gradient near x is not finite.
    """
    last = ""
    for h in STEPS[order]:
        coarse, fine = _difference(f, x, v, order, h), _difference(f, x, v, order, h / 2)
        if not bool((coarse.isfinite() & fine.isfinite()).all()):
            last = "a gradient near the point is not finite"
            continue
        size = max(float(fine.norm()), floor)
        apart = float((coarse - fine).norm()) / size
        if apart <= AGREE[order]:
            # Richardson: truncation of order h² cancels.
            return (4 * fine - coarse) / 3
        last = "differences at two steps do not agree (a kink, or noise)"
    raise DoubtError(f"order {order}: {last}")


def truth(f: ScalarFunction, x: Tensor, v: Tensor, orders: tuple[int, ...] = (2, 3)) -> Truth:
    """Truth along v.

    Raises:
        DoubtError: f or its gradient is not finite, or gradient and values disagree.
    """
    value, again = _finite(_value(f, x), "f"), _value(f, x)
    if not torch.equal(value, again):
        raise DoubtError("f is random")
    g = _finite(gradient(f, x), "the gradient")
    slopes = []
    for h in (1e-4, 1e-6):
        slopes.append(float((_value(f, x + h * v) - _value(f, x - h * v)) / (2 * h)))
    expected = float(g @ v)
    error = min(abs(slope - expected) for slope in slopes)
    if not error <= 1e-4 * max(float(g.norm()), abs(float(value)) * 1e-2, 1e-8):
        raise DoubtError(NOT_THAT_OF_VALUES)
    # f is of size 1 by its scale: derivatives of a millionth of that are zeros with rounding.
    floor = max(1e-3 * float(g.norm()), 1e-6 * max(abs(float(value)), 1.0))
    products, doubts = {}, {}
    for order in orders:
        try:
            products[order] = product(f, x, v, order, floor)
        except DoubtError as doubt:
            doubts[order] = str(doubt)
            doubts |= {above: f"order {above}: that of order {order} is in doubt" for above in orders if above > order}
            break
    return Truth(v, products, floor, doubts)

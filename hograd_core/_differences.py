"""Whether a result is the derivative that it should be, by differences of gradients.

A derivative of order k along v is the slope of the one of order k-1: u·Dᵏf(x)[v, …, v, ·] is held against central
differences of gradients, u·δᵐ∇f/hᵐ with m = k-1, at two steps, in float64 where f allows. Nothing of it is shared with
the methods but the gradient, which :func:`hograd_core.verify` holds against differences of values first.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import ScalarFunction
from hograd_core._entrance import kept, unguarded


def tolerance(dtype: torch.dtype) -> float:
    """Relative disagreement of a result in ``dtype`` that counts as wrong.

    Differences are good to about 1e-6 in float64 and to some 1e-3 in float32; what PyTorch gets wrong is wrong by more.
    """
    return 1e-3 if dtype == torch.float64 else 1e-2


class VerificationError(ArithmeticError):
    """A result is not the derivative of the function that it was asked for."""


class NotVerifiedWarning(UserWarning):
    """A result could not be verified: differences at two steps do not agree about the function."""


def probe(x: Tensor, seed: int) -> Tensor:
    """A random direction like x, the same for the same seed."""
    drawn = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return drawn.to(x.device, x.dtype)


def _in_float64(f: ScalarFunction, x: Tensor) -> Tensor:
    """x in float64 where f takes it and answers in it, else x."""
    if x.dtype == torch.float64:
        return x
    wide = x.double()
    try:
        return wide if f(wide).dtype == torch.float64 else x
    except (RuntimeError, TypeError):
        return x


def _gradient(f: ScalarFunction, x: Tensor) -> Tensor:
    point = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(f(point), point, allow_unused=True, materialize_grads=True)
    return g


@dataclass(frozen=True)
class Slope:
    """What differences say of a derivative: its value, how well it is known, whether it is.

    Attributes:
        value: Dᵏf(x)[v, …, v, ·], flat, or its product with one more direction, of one element.
        doubt: by how much the differences at two steps disagree.
        scale: what errors are relative to.
        allowed: relative error that differences may have.
    """

    value: Tensor
    doubt: float
    scale: float
    allowed: float

    @property
    def known(self) -> bool:
        """Whether both steps agree."""
        return self.doubt <= self.allowed / 4 * self.scale

    def error(self, got: Tensor) -> float:
        """Relative error of a tensor that should be this one."""
        deviation = float(torch.linalg.vector_norm(got.reshape(-1).to(self.value) - self.value))
        return deviation / self.scale if math.isfinite(deviation) else math.inf


def slope(f: ScalarFunction, x: Tensor, v: Tensor, order: int, into: Tensor | None, size: float) -> Slope:
    """Dᵏf(x)[v, …, v, ·] by central differences of k-1-st order of gradients, at two steps.

    Args:
        f: scalar function.
        x: the point.
        v: the direction that fills the slots, like x.
        order: k >= 1; 1 is by differences of values along ``into``.
        into: a direction that the last slot is contracted with; None: left open.
        size: magnitude that the result may be expected to have; what is far below counts as zero.
    """
    allowed, eps = tolerance(x.dtype), torch.finfo(x.dtype).eps
    x = _in_float64(f, x.detach())
    m = 1 if order == 1 else order - 1
    last = None if into is None else into.to(x.dtype)
    along = last if order == 1 and last is not None else v.to(x.dtype)

    def below(point: Tensor) -> Tensor:
        if order == 1:
            return f(point).detach().reshape(1)
        g = _gradient(f, point).reshape(-1)
        return g if last is None else (g * last.reshape(-1)).sum().reshape(1)

    value, doubt, noise = differenced(below, x, along, m)
    # What a method rounds away where terms cancel: of the size that a derivative has by f, its gradient and x.
    radius = 1 + float(torch.linalg.vector_norm(x.double()))
    natural = (abs(float(f(x).detach())) + radius * float(torch.linalg.vector_norm(_gradient(f, x).double()))) / radius
    lengths = float(torch.linalg.vector_norm(v.double())) / radius, 1.0 if last is None else float(last.double().norm())
    rounding = 100 * eps * natural * lengths[0] ** (order - 1) * lengths[1]
    return judged(value, doubt, max(noise, rounding), size, allowed)


def differenced(g: Callable[[Tensor], Tensor], x: Tensor, along: Tensor, m: int = 1) -> tuple[Tensor, float, float]:
    """The m-th derivative of g along a direction, by central differences at two steps.

    Returns:
        Value, flat; the norm by which the two steps disagree; the norm that rounding alone may have.
    """
    length = float(torch.linalg.vector_norm(along.double())) or 1.0
    eps = torch.finfo(x.dtype).eps
    best = eps ** (1 / (m + 2)) * (1 + float(torch.linalg.vector_norm(x.double()))) / length
    found, noise = [], 0.0
    for h in (best, best / 3):
        terms = [(-1) ** j * math.comb(m, j) * g(x + (m / 2 - j) * h * along).reshape(-1) for j in range(m + 1)]
        noise = 30 * eps * sum(float(torch.linalg.vector_norm(t)) for t in terms) / h**m
        found.append(torch.stack(terms).sum(0) / h**m)
    return found[0], float(torch.linalg.vector_norm(found[0] - found[1])), noise


def judged(value: Tensor, doubt: float, noise: float, size: float, allowed: float) -> Slope:
    """What differences are worth, at the size that the result has."""
    scale = max(float(torch.linalg.vector_norm(value)), size, noise / allowed, torch.finfo(value.dtype).tiny)
    known = math.isfinite(doubt) and math.isfinite(scale)
    return Slope(value, doubt if known else math.inf, scale if known else 1.0, allowed)


def check_derivative(
    where: str, result: Tensor, arguments: tuple[Any, ...], order: int | None, *, slots: int | None
) -> None:
    """Hold a derivative operator's result against differences; what ``verify=True`` does.

    Args:
        where: operator and method, for messages.
        result: the derivative, v in all of its slots but ``slots``.
        arguments: f, x and, where slots are filled, v.
        order: the derivative's order; None: 1.
        slots: how many are left open; None: all.

    Raises:
        VerificationError: it disagrees at both steps.
        TypeError: called from inside a larger derivative.
    """
    f, x = arguments[:2]
    order = order or 1
    if kept():
        raise TypeError(f"verify: {where} is called from inside another derivative; verify the outer one")
    v = probe(x, 1) if slots is None else arguments[2]
    left = result.detach().double()
    for _ in range(order - 1 if slots is None else 0):
        left = v.double().reshape(1, -1) @ left.reshape(x.numel(), -1)
    into = v if slots == 0 else None
    if order == 1 and slots != 0:
        into = probe(x, 2)
        left = (left.reshape(-1) * into.double().reshape(-1)).sum()
    with unguarded():
        true = slope(f, x, v, order, into, float(torch.linalg.vector_norm(left)))
    conclude(where, true, left, "values" if order == 1 else "gradients")


def conclude(where: str, true: Slope, got: Tensor, differenced: str) -> None:
    """Raise where a result is not what differences say, warn where they say nothing.

    Raises:
        VerificationError: it disagrees, and both steps agree.
    """
    error = true.error(got)
    if error <= true.allowed:
        return
    if not true.known:
        warnings.warn(
            f"{where}: not verified: differences of {differenced} at two steps disagree by "
            f"{true.doubt / true.scale:.1g} of their size, so that f is not smooth at x, not deterministic, or too "
            "ill-conditioned for differences",
            NotVerifiedWarning,
            stacklevel=5,
        )
        return
    raise VerificationError(
        f"{where}: its result is wrong by {error:.2g} of its size, by differences of {differenced} along a random "
        "direction; hograd_core.verify(f, x) names the operator and the modes that are at fault"
    )

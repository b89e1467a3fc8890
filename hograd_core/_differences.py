"""Whether a result is the derivative that it should be, by differences of gradients.

A derivative of order k along v is the slope of the one of order k-1: u·Dᵏf(x)[v, …, v, ·] is held against central
differences of gradients, u·δᵐ∇f/hᵐ with m = k-1, at two steps, in float64 where f allows. Nothing of it is shared with
the methods but the gradient, which :func:`hograd_core.verify` holds against differences of values first.
"""

from __future__ import annotations

import math
import warnings
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
    drawn = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
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
    """What differences say of a number u·Dᵏf(x)[v, …, v, ·]: its value, how well it is known, whether it is."""

    value: float
    doubt: float
    scale: float
    allowed: float

    @property
    def known(self) -> bool:
        """Whether both steps agree."""
        return self.doubt <= self.allowed / 4 * self.scale

    def error(self, got: float) -> float:
        """Relative error of a number that should be this one."""
        return abs(got - self.value) / self.scale if math.isfinite(got) else math.inf


def slope(f: ScalarFunction, x: Tensor, v: Tensor, u: Tensor, order: int, size: float) -> Slope:
    """u·Dᵏf(x)[v, …, v, ·] by central differences of k-1-st order of gradients, at two steps; of values for order 1.

    Args:
        f: scalar function.
        x: the point.
        v: the direction that fills the slots, like x.
        u: the direction that the last slot is contracted with, like x.
        order: k >= 1.
        size: magnitude that the number may be expected to have; what is far below counts as zero.
    """
    allowed = tolerance(x.dtype)
    x = _in_float64(f, x.detach())
    v, u = v.to(x.dtype), u.to(x.dtype)
    m = 1 if order == 1 else order - 1

    def below(point: Tensor) -> float:
        return float(f(point).detach()) if order == 1 else float((_gradient(f, point) * u).sum())

    # Order 1 is differenced along u itself: the gradient's product with u.
    along = u if order == 1 else v
    length = float(torch.linalg.vector_norm(along.double())) or 1.0
    best = torch.finfo(x.dtype).eps ** (1 / (m + 2)) * (1 + float(torch.linalg.vector_norm(x.double()))) / length
    found, noise = [], 0.0
    for h in (best, best / 3):
        terms = [(-1) ** j * math.comb(m, j) * below(x + (m / 2 - j) * h * along) for j in range(m + 1)]
        noise = 30 * torch.finfo(x.dtype).eps * sum(abs(t) for t in terms) / h**m
        found.append(sum(terms) / h**m)
    value = found[0]
    scale = max(abs(value), size, noise / allowed, torch.finfo(x.dtype).tiny)
    doubt = abs(found[0] - found[1]) if all(math.isfinite(s) for s in found) else math.inf
    return Slope(value, doubt, scale, allowed)


def check_derivative(where: str, result: Tensor, arguments: tuple[Any, ...], order: int | None) -> None:
    """Hold a derivative operator's result against differences; what ``verify=True`` does.

    Args:
        where: operator and method, for messages.
        result: a tensor of x's shape once for each slot that is left, or a 0-dimensional one.
        arguments: f, x and, for products, v.
        order: the derivative's order; None: 1.

    Raises:
        VerificationError: it disagrees at both steps.
        TypeError: called from inside a larger derivative.
    """
    f, x = arguments[:2]
    order = order or 1
    if kept():
        raise TypeError(f"verify: {where} is called from inside another derivative; verify the outer one")
    n = x.numel()
    v = arguments[2] if len(arguments) > 2 else probe(x, 1)
    if result.dim() == 0 and len(arguments) > 2:
        got, u = result.double(), v
    else:
        u = probe(x, 2)
        flat = result.detach().double().reshape(n, -1) if result.numel() > n else result.detach().double().reshape(1, n)
        while flat.numel() > n:
            flat = (v.double().reshape(1, n) @ flat).reshape(n, -1)
        got = (flat.reshape(-1) * u.double().reshape(-1)).sum()
        size = float(torch.linalg.vector_norm(flat))
    if result.dim() == 0 and len(arguments) > 2:
        size = abs(float(got))
    with unguarded():
        true = slope(f, x, v, u, order, size)
    error = true.error(float(got))
    if error <= true.allowed:
        return
    if not true.known:
        warnings.warn(
            f"{where}: not verified: differences of gradients at two steps disagree by {true.doubt / true.scale:.1g} "
            "of their size, so that f is not smooth at x, not deterministic, or too ill-conditioned for differences",
            NotVerifiedWarning,
            stacklevel=3,
        )
        return
    raise VerificationError(
        f"{where}: its result is wrong by {error:.2g} of its size along a random direction: {float(got):.6g}, where "
        f"differences of {'values' if order == 1 else 'gradients'} give {true.value:.6g}; hograd_core.verify(f, x) "
        "names the operator and the modes that are at fault"
    )

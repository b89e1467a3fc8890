"""What penalties on a critic's input gradient are made of: φ, how far a norm is from what is wanted, and points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import check_point
from hograd_core._entrance import entrance, kept

Phi = Callable[[Tensor], Tensor]


def norms(g: Tensor) -> Tensor:
    """Euclidean norm per sample over all dimensions but the first, with derivative 0 where the norm is 0.

    Args:
        g: shape (batch, ...).

    Returns:
        Shape (batch,).
    """
    # Its own derivative formula has the 0; it neither overflows in half precision nor hides a NaN.
    result: Tensor = torch.linalg.vector_norm(g.flatten(1), dim=1)
    return result


def two_sided(target: float = 1.0) -> Phi:
    """φ of WGAN-GP: (‖g‖ − target)²."""
    return lambda g: (norms(g) - target).square()


def one_sided(target: float = 1.0) -> Phi:
    """φ of WGAN-LP: max(0, ‖g‖ − target)²."""
    return lambda g: (norms(g) - target).clamp_min(0).square()


def half_square(g: Tensor) -> Tensor:
    """φ of R1: ‖g‖²/2."""
    return g.flatten(1).square().sum(1) / 2


def draw_mixing(real: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One ε a sample, uniform in [0, 1), shaped to broadcast against ``real``.

    Args:
        real: shape (batch, ...).
        generator: of real's device; None: PyTorch's global one.

    Returns:
        Shape (batch, 1, ..., 1), dtype and device of ``real``.
    """
    shape = (real.shape[0], *(1,) * (real.dim() - 1))
    return torch.rand(shape, dtype=real.dtype, device=real.device, generator=generator)


@entrance
def interpolate(real: Any, fake: Any, mixing: Any) -> Tensor:
    """ε real + (1 − ε) fake, detached: the points where WGAN-GP and WGAN-LP look.

    Raises:
        TypeError: an argument is not a real floating tensor, or dtypes differ.
        ValueError: shapes or devices do not pair; the message names the argument.
    """
    real = check_samples(real, "real")
    fake = check_samples(fake, "fake")
    if fake.shape != real.shape:
        raise ValueError(f"fake: got shape {tuple(fake.shape)}, expected {tuple(real.shape)} like real")
    expected = (real.shape[0], *(1,) * (real.dim() - 1))
    if not isinstance(mixing, Tensor) or mixing.shape != expected:
        got = tuple(mixing.shape) if isinstance(mixing, Tensor) else type(mixing).__name__
        raise ValueError(f"mixing: got {got}, expected shape {expected}, one number a sample; use draw_mixing(real)")
    for name, other in (("fake", fake), ("mixing", mixing)):
        if other.dtype != real.dtype:
            raise TypeError(f"{name}: got dtype {other.dtype}, expected {real.dtype} like real")
        if other.device != real.device:
            raise ValueError(f"{name}: got device {other.device}, expected {real.device} like real")
    return torch.lerp(fake, real, mixing if kept() else mixing.detach())


def check_samples(x: Any, name: str) -> Tensor:
    if isinstance(x, Tensor) and (x.dim() < 2 or x.numel() == 0):
        raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected (batch, ...) with at least one element")
    return check_point(x, name)

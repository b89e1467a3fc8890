"""Rules of complex parts, of special functions, and of tensors made like a series."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hograd_core.hazards._substitutes import sinc
from hograd_core.taylor import _functions as functions
from hograd_core.taylor import _series as s
from hograd_core.taylor._elementwise import _atan2_series, _on_values, _primal
from hograd_core.taylor._jet import REWRITTEN, aten, rule
from hograd_core.taylor._selection import _abs
from hograd_core.taylor._series import Operand, Series
from hograd_core.taylor._structure import _complex


@rule(aten.sgn)
def _sgn(u: Series) -> Series | Tensor:
    """u/|u|: constant between the jumps where u is real, not where it is complex."""
    value = torch.sgn(u.primal)
    if not u.primal.is_complex():
        return value.detach()
    at_zero = u.primal == 0
    size = _abs(Series([torch.where(at_zero, 1.0, u.primal), *u.c[1:]]))
    quotient = s.divide(u, size).map(lambda c: torch.where(at_zero, 0.0, c))
    return Series([value, *quotient.c[1:]])


@rule(aten.angle)
def _angle(u: Series) -> Series | Tensor:
    if not u.primal.is_complex():
        return torch.angle(u.primal.detach())
    parts = u.map(lambda c: torch.view_as_real(c.resolve_conj()))
    return _atan2_series(parts.map(lambda c: c[..., 1]), parts.map(lambda c: c[..., 0]))


@rule(aten.polar)
def _polar(size: Operand, angle: Operand) -> Series:
    if isinstance(angle, Series):
        sine, cosine = functions.sin_cos(angle)
        return _complex(s.product(size, cosine), s.product(size, sine))
    return _complex(s.product(size, torch.cos(angle)), s.product(size, torch.sin(angle)))  # type: ignore[arg-type]


@rule(aten.polygamma)
def _polygamma(n: int, u: Series) -> Series:
    return functions.compose(u, [torch.polygamma(n + k, u.primal) for k in range(u.degree + 1)])


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)
    return distances


for _function in (torch.sinc, Tensor.sinc, torch.special.sinc):
    REWRITTEN[_function] = sinc
REWRITTEN[torch.cdist] = _cdist


def _fresh(operation: Any) -> None:
    def function(u: Operand, *args: Any, **kwargs: Any) -> Any:
        made = _on_values(operation)(u, *args, **kwargs)
        # A constant series and no plain tensor, so that a series can be written into it (PyTorch's C++ does: 1 - u).
        inexact = made.is_floating_point() or made.is_complex()
        return s.constant(made, u.degree) if inexact and isinstance(u, Series) else made

    rule(operation)(function)


for _operation in (
    aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.new_zeros, aten.new_ones, aten.new_full,
    aten.new_empty, aten.new_empty_strided,
):  # fmt: skip
    _fresh(_operation)


@rule(aten.zero)
def _zero(u: Series) -> Series:
    return s.constant(torch.zeros_like(u.primal), u.degree)


@rule(aten.fill)
def _fill(u: Operand, value: Any) -> Any:
    like = _primal(u)
    if isinstance(value, Series):
        return value.map(lambda c: c.to(like.dtype).expand(like.shape))
    filled = torch.full_like(like, value) if not isinstance(value, Tensor) else value.to(like.dtype).expand(like.shape)
    assert isinstance(u, Series)
    return s.constant(filled, u.degree)

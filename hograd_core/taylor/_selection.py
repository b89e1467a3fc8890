"""Rules of piecewise operations: the value chooses the branch, and the coefficients follow it.

At a kink the derivative does not exist; the choice there is PyTorch's own for first derivatives.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hograd_core.taylor import _functions as functions
from hograd_core.taylor import _series as s
from hograd_core.taylor._jet import aten, rule
from hograd_core.taylor._series import Coefficient, Operand, Series
from hograd_core.taylor._structure import jointly


def _with_slope(u: Series, primal: Tensor, slope: Tensor) -> Series:
    """A piecewise linear function: the higher coefficients times the slope of the branch (0 stays 0 against inf)."""
    off = slope == 0
    return Series([primal, *(None if c is None else torch.where(off, 0.0, c * slope) for c in u.c[1:])])


@rule(aten.relu)
def _relu(u: Series) -> Series:
    return _with_slope(u, torch.relu(u.primal), (u.primal > 0).to(u.primal.dtype))


def abs_square(u: Series) -> Series:
    """|u|², real."""
    if not u.primal.is_complex():
        return s.square(u)
    return s.square(u.map(lambda c: torch.view_as_real(c.resolve_conj()))).map(lambda c: c.sum(-1))


@rule(aten.abs)
def _abs(u: Series) -> Series:
    if u.primal.is_complex():
        root = functions.sqrt(abs_square(u))
        return Series([torch.abs(u.primal), *root.c[1:]])
    return _with_slope(u, torch.abs(u.primal), torch.sign(u.primal.detach()))


@rule(aten.leaky_relu)
def _leaky_relu(u: Series, negative_slope: float = 0.01) -> Series:
    primal = aten.leaky_relu(u.primal, negative_slope)
    slope = torch.where(u.primal > 0, torch.ones_like(primal), negative_slope)
    return _with_slope(u, primal, slope)


@rule(aten.hardtanh)
def _hardtanh(u: Series, min_val: float = -1, max_val: float = 1) -> Series:
    inside = (u.primal > min_val) & (u.primal < max_val)
    return _with_slope(u, aten.hardtanh(u.primal, min_val, max_val), inside.to(u.primal.dtype))


@rule(aten.threshold)
def _threshold(u: Series, threshold: float, value: float) -> Series:
    return _with_slope(u, aten.threshold(u.primal, threshold, value), (u.primal > threshold).to(u.primal.dtype))


def _sawtooth(operation: Any) -> Any:
    def function(u: Any, divisor: Any) -> Series:
        """u − q d with a whole number q, which is constant between the jumps."""
        top, bottom = (x.primal if isinstance(x, Series) else x for x in (u, divisor))
        value = operation(top, bottom)
        with torch.no_grad():
            quotient = ((top - value) / bottom).round()
        taken = s.multiply(divisor, quotient) if isinstance(divisor, Series) else divisor * quotient
        whole = s.add(u, taken, alpha=-1)
        return Series([value, *whole.c[1:]])

    return function


rule(aten.remainder)(_sawtooth(aten.remainder))
rule(aten.fmod)(_sawtooth(aten.fmod))


def _bounded(u: Operand, bound: Operand | None, larger: bool) -> Operand:
    if bound is None:
        return u
    if not isinstance(u, Series) and not isinstance(bound, Series):
        return torch.clamp(u, min=bound) if larger else torch.clamp(u, max=bound)  # type: ignore[arg-type]
    primal = u.primal if isinstance(u, Series) else u
    limit = bound.primal if isinstance(bound, Series) else bound
    keep = (primal >= limit) if larger else (primal <= limit)
    return _choose(keep, u, bound)


def _choose(mask: Any, a: Operand, b: Operand) -> Series:
    like = a.primal if isinstance(a, Series) else b.primal  # type: ignore[union-attr]
    filled = [torch.as_tensor(x, dtype=like.dtype) if isinstance(x, int | float) else x for x in (a, b)]
    return jointly(filled, lambda parts: torch.where(mask, parts[0], parts[1]))


@rule(aten.clamp)
def _clamp(u: Operand, min: Any = None, max: Any = None) -> Operand:
    return _bounded(_bounded(u, min, True), max, False)


@rule(aten.clamp_min)
def _clamp_min(u: Operand, bound: Any) -> Operand:
    return _bounded(u, bound, True)


@rule(aten.clamp_max)
def _clamp_max(u: Operand, bound: Any) -> Operand:
    return _bounded(u, bound, False)


def _extreme(a: Operand, b: Operand, sign: int) -> Series:
    pa, pb = (x.primal if isinstance(x, Series) else torch.as_tensor(x) for x in (a, b))
    difference = (pa - pb) * sign
    chosen = _choose(difference > 0, a, b)
    tied = difference == 0
    if not bool(tied.any()):
        return chosen
    mean = jointly([a, b], lambda parts: (parts[0] + parts[1]) / 2)
    higher: list[Coefficient] = [
        c if c is None or m is None else torch.where(tied, m, c) for c, m in zip(chosen.c[1:], mean.c[1:], strict=True)
    ]
    return Series([chosen.primal, *higher])


@rule(aten.maximum, aten.fmax)
def _maximum(a: Operand, b: Operand) -> Series:
    return _extreme(a, b, 1)


@rule(aten.minimum, aten.fmin)
def _minimum(a: Operand, b: Operand) -> Series:
    return _extreme(a, b, -1)


def _taken(u: Series, indices: Tensor, dim: int, keepdim: bool) -> Series:
    if u.primal.dim() == 0:
        return u
    index = indices if keepdim else indices.unsqueeze(dim)
    picked = u.map(lambda c: torch.gather(c, dim, index))
    return picked if keepdim else picked.map(lambda c: c.squeeze(dim))


def _reduce_extreme(operation: Any) -> Any:
    def function(u: Series, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None:
            return _averaged(u, operation(u.primal.detach()), None, False)
        _, indices = operation(u.primal.detach(), dim, keepdim)
        return _taken(u, indices, dim, keepdim), indices

    return function


def _averaged(u: Series, value: Tensor, dims: Any, keepdim: bool) -> Series:
    """An extreme over dims where ties share the coefficients, as PyTorch's amax shares the gradient."""
    full = value if keepdim or not dims else value.reshape(
        [1 if d in {i % u.primal.dim() for i in dims} else n for d, n in enumerate(u.primal.shape)]
    )  # fmt: skip
    mask = (u.primal == full).to(u.primal.dtype)
    axes = list(dims) if dims else list(range(u.primal.dim()))
    if not axes:
        return u
    count = mask.sum(axes, keepdim=keepdim)
    return u.map(lambda c: torch.where(mask > 0, c, 0.0).sum(axes, keepdim=keepdim) / count)


rule(aten.max)(_reduce_extreme(aten.max))
rule(aten.min)(_reduce_extreme(aten.min))


@rule(aten.amax)
def _amax(u: Series, dim: Any = (), keepdim: bool = False) -> Series:
    return _averaged(u, aten.amax(u.primal.detach(), dim, keepdim), dim, keepdim)


@rule(aten.amin)
def _amin(u: Series, dim: Any = (), keepdim: bool = False) -> Series:
    return _averaged(u, aten.amin(u.primal.detach(), dim, keepdim), dim, keepdim)


@rule(aten.sort)
def _sort(u: Series, *args: Any, **kwargs: Any) -> Any:
    _, indices = aten.sort(u.primal.detach(), *args, **kwargs)
    dim = kwargs.get("dim", next((a for a in args if isinstance(a, int) and not isinstance(a, bool)), -1))
    return _taken(u, indices, dim, True), indices


@rule(aten.topk)
def _topk(u: Series, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    _, indices = aten.topk(u.primal.detach(), k, dim, largest, sorted)
    return _taken(u, indices, dim, True), indices


def _median_by(operation: Any) -> Any:
    def function(u: Series, dim: int | None = None, keepdim: bool = False) -> Any:
        if dim is None:
            flat = u.map(lambda c: c.reshape(-1))
            return _taken(flat, operation(flat.primal.detach(), 0)[1], 0, False)
        _, indices = operation(u.primal.detach(), dim, keepdim)
        return _taken(u, indices, dim, keepdim), indices

    return function


rule(aten.median)(_median_by(aten.median))
rule(aten.nanmedian)(_median_by(aten.nanmedian))


@rule(aten.kthvalue)
def _kthvalue(u: Series, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    _, indices = aten.kthvalue(u.primal.detach(), k, dim, keepdim)
    return _taken(u, indices, dim, keepdim), indices


def _max_pool(operation: Any, spatial: int) -> None:
    def function(u: Series, *args: Any, **kwargs: Any) -> Any:
        values, indices = operation(u.primal.detach(), *args, **kwargs)
        flat = indices.flatten(-spatial)

        def pick(c: Tensor) -> Tensor:
            return torch.gather(c.flatten(-spatial), -1, flat).reshape(values.shape)

        return u.map(pick), indices

    rule(operation)(function)


_max_pool(aten.max_pool2d_with_indices, 2)
_max_pool(aten.max_pool3d_with_indices, 3)
_max_pool(aten.adaptive_max_pool2d, 2)
_max_pool(aten.adaptive_max_pool3d, 3)


def logsumexp(u: Series, dim: Any, keepdim: bool) -> Series:
    """log Σ exp(u − m) + m, with m the constant maximum: no overflow, and no derivative of m enters."""
    peak = u.primal.detach().amax(dim, keepdim=True)
    peak = torch.where(peak.abs() == math.inf, torch.zeros_like(peak), peak)
    total = functions.exp(s.add(u, -peak)).map(lambda c: c.sum(dim, keepdim=True))
    out = s.add(functions.log(total), peak)
    return out if keepdim else out.map(lambda c: c.squeeze(dim))


@rule(aten.logsumexp)
def _logsumexp(u: Series, dim: Any, keepdim: bool = False) -> Series:
    return logsumexp(u, dim if isinstance(dim, int) else tuple(dim), keepdim)

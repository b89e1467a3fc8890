"""Rules of bilinear operations: matrix products, convolutions. A constant factor meets all coefficients at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hograd_core.taylor import _series as s
from hograd_core.taylor._collapsed import is_wide
from hograd_core.taylor._jet import aten, rule
from hograd_core.taylor._series import Coefficient, Operand, Series


def _together(u: Series, operation: Callable[[Tensor], Tensor], dim: int, out_dim: int) -> Series:
    """A linear map on all coefficients in one call, joined along a dimension that the map treats as a batch.

    The constant (a weight matrix) is then read once instead of once a degree.
    """
    out: list[Coefficient] = [None] * len(u.c)
    groups: dict[tuple[bool, bool], list[int]] = {}
    for k, c in enumerate(u.c):
        if c is not None:  # coefficients of many directions apart from those that all share, copies of a row apart
            groups.setdefault((is_wide(c), dim == out_dim == 0 and _repeats(c)), []).append(k)
    for (_, repeated), present in groups.items():
        tensors: list[Tensor] = [c for k in present if (c := u.c[k]) is not None]
        size = tensors[0].shape[dim]
        if repeated:
            tensors = [c[0].unsqueeze(0) for c in tensors]  # strided as a product of rows wants them
        whole = operation(tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim))
        pieces = (whole,) if len(present) == 1 else whole.chunk(len(present), out_dim)
        for k, piece in zip(present, pieces, strict=True):
            out[k] = piece.expand(size, *piece.shape[1:]) if repeated else piece
    return Series(out)


def _repeats(c: Tensor) -> bool:
    """Whether all slices along dimension 0 are the same memory: a direction that is the same at all points."""
    return c.shape[0] > 1 and c.stride(0) == 0


def _matrix(u: Operand, v: Operand) -> Series:
    """(m, k) @ (k, n)."""
    if isinstance(u, Series):
        if isinstance(v, Series):
            return s.bilinear(u, v, torch.mm)
        return _together(u, lambda c: torch.mm(c, v), 0, 0)  # type: ignore[arg-type]
    assert isinstance(v, Series)
    return _together(v, lambda c: torch.mm(u, c), 1, 1)  # type: ignore[arg-type]


def _matrices(u: Operand, v: Operand) -> Series:
    """(b, m, k) @ (b, k, n)."""
    if isinstance(u, Series):
        if isinstance(v, Series):
            return s.bilinear(u, v, torch.bmm)
        return _together(u, lambda c: torch.bmm(c, v), 1, 1)  # type: ignore[arg-type]
    assert isinstance(v, Series)
    return _together(v, lambda c: torch.bmm(u, c), 2, 2)  # type: ignore[arg-type]


def _as_columns(v: Operand) -> Operand:
    return v.map(lambda c: c.unsqueeze(-1)) if isinstance(v, Series) else v.unsqueeze(-1)  # type: ignore[union-attr]


def _matrix_vector(a: Operand, v: Operand) -> Series:
    return _matrix(a, _as_columns(v)).map(lambda c: c.squeeze(-1))


def _scaled_sum(base: Operand, product: Series, beta: float, alpha: float) -> Series:
    if beta == 0:
        return product if alpha == 1 else product.map(lambda c: c * alpha)
    if beta != 1:
        base = base.map(lambda c: c * beta) if isinstance(base, Series) else base * beta
    return s.add(base, product, alpha=alpha)


@rule(aten.mm)
def _mm(u: Operand, v: Operand) -> Series:
    return _matrix(u, v)


@rule(aten.bmm)
def _bmm(u: Operand, v: Operand) -> Series:
    return _matrices(u, v)


@rule(aten.mv)
def _mv(a: Operand, v: Operand) -> Series:
    return _matrix_vector(a, v)


@rule(aten.vdot)
def _vdot(u: Any, v: Any) -> Series:
    return _dot(u.map(torch.conj) if isinstance(u, Series) else u.conj(), v)


@rule(aten.dot)
def _dot(u: Operand, v: Operand) -> Series:
    if isinstance(u, Series) and isinstance(v, Series):
        return s.bilinear(u, v, torch.dot)
    series, fixed = (u, v) if isinstance(u, Series) else (v, u)
    assert isinstance(series, Series)
    return series.map(lambda c: torch.dot(c, fixed))  # type: ignore[arg-type]


@rule(aten.addmm)
def _addmm(base: Operand, u: Any, v: Any, *, beta: float = 1, alpha: float = 1) -> Series:
    if not (isinstance(u, Series) or isinstance(v, Series)):
        return _scaled_constant(base, u @ v, beta, alpha)
    return _scaled_sum(base, _matrix(u, v), beta, alpha)


@rule(aten.baddbmm)
def _baddbmm(base: Operand, u: Any, v: Any, *, beta: float = 1, alpha: float = 1) -> Series:
    if not (isinstance(u, Series) or isinstance(v, Series)):
        return _scaled_constant(base, u @ v, beta, alpha)
    return _scaled_sum(base, _matrices(u, v), beta, alpha)


@rule(aten.addmv)
def _addmv(base: Operand, a: Any, v: Any, *, beta: float = 1, alpha: float = 1) -> Series:
    if not (isinstance(a, Series) or isinstance(v, Series)):
        return _scaled_constant(base, a @ v, beta, alpha)
    return _scaled_sum(base, _matrix_vector(a, v), beta, alpha)


def _scaled_constant(base: Operand, product: Tensor, beta: float, alpha: float) -> Series:
    """Where only the summand depends on t (a bias that is a variable)."""
    assert isinstance(base, Series)
    return s.add(base.map(lambda c: c * beta), product * alpha)


@rule(aten.linear)
def _linear(u: Operand, weight: Operand, bias: Operand | None = None) -> Series:
    columns = weight.map(lambda c: c.mT) if isinstance(weight, Series) else weight.mT  # type: ignore[union-attr]
    rows = u.primal.shape if isinstance(u, Series) else u.shape  # type: ignore[union-attr]
    flat = _reshaped(u, (-1, rows[-1]))
    if isinstance(flat, Series) or isinstance(columns, Series):
        product = _matrix(flat, columns)
        product = product if bias is None else s.add(bias, product)
    else:
        assert isinstance(bias, Series)
        product = s.add(bias, flat @ columns)  # type: ignore[operator]
    return product.map(lambda c: c.reshape(*rows[:-1], -1))


def _reshaped(u: Operand, shape: tuple[int, ...]) -> Operand:
    return u.map(lambda c: c.reshape(shape)) if isinstance(u, Series) else u.reshape(shape)  # type: ignore[union-attr]


@rule(aten.convolution)
def _convolution(
    u: Operand, weight: Operand, bias: Operand | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> Series:  # fmt: skip
    def convolve(x: Tensor, w: Tensor) -> Tensor:
        result: Tensor = aten.convolution(x, w, None, stride, padding, dilation, transposed, output_padding, groups)
        return result

    if isinstance(u, Series) and isinstance(weight, Series):
        out = s.bilinear(u, weight, convolve)
    elif isinstance(u, Series):
        out = _together(u, lambda c: convolve(c, weight), 0, 0)  # type: ignore[arg-type]
    elif isinstance(weight, Series):
        out = weight.map(lambda c: convolve(u, c))  # type: ignore[arg-type]
    else:
        assert isinstance(bias, Series)
        out = s.constant(convolve(u, weight), bias.degree)  # type: ignore[arg-type]
    if bias is None:
        return out
    channels = (1, -1, *(1,) * (out.primal.dim() - 2))
    return s.add(_reshaped(bias, channels), out)


def _in_both(u: Any, v: Any, product: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """A bilinear map of whichever of the two are series."""
    if isinstance(u, Series):
        return s.bilinear(u, v, product) if isinstance(v, Series) else u.map(lambda c: product(c, v))
    return v.map(lambda c: product(u, c)) if isinstance(v, Series) else product(u, v)


@rule(aten.convolution_backward)
def _convolution_backward(
    g: Any, u: Any, weight: Any, bias_sizes: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, output_mask: list[bool],
) -> Any:  # fmt: skip
    like_u, like_weight = (x.primal if isinstance(x, Series) else x for x in (u, weight))

    def part(which: int, g: Tensor, x: Tensor, w: Tensor) -> Tensor:
        mask = [i == which for i in range(3)]
        settings = (bias_sizes, stride, padding, dilation, transposed, output_padding, groups)
        result: Tensor = aten.convolution_backward(g, x, w, *settings, mask)[which]
        return result

    # Each of the three results is linear in two of the tensors and takes the shape alone of the third.
    to_input = _in_both(g, weight, lambda a, b: part(0, a, like_u, b)) if output_mask[0] else None
    to_weight = _in_both(g, u, lambda a, b: part(1, a, b, like_weight)) if output_mask[1] else None
    to_bias = _in_both(g, None, lambda a, _: part(2, a, like_u, like_weight)) if output_mask[2] else None
    return to_input, to_weight, to_bias


@rule(aten._trilinear)
def _trilinear(
    a: Any, b: Any, c: Any, expand1: list[int], expand2: list[int], expand3: list[int], sumdim: list[int],
    unroll_dim: int = 1,
) -> Series:  # fmt: skip
    def expanded(u: Any, dims: list[int]) -> Any:
        for d in dims:
            u = u.map(functools.partial(torch.unsqueeze, dim=d)) if isinstance(u, Series) else u.unsqueeze(d)
        return u

    product: Any = s.product(s.product(expanded(a, expand1), expanded(b, expand2)), expanded(c, expand3))
    result: Series = product.map(lambda p: p.sum(sumdim)) if sumdim else product
    return result

"""Rules of linear operations: views, indexing, padding, joining, sums, pooling. Each acts on every coefficient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hograd_core.taylor._jet import MissingRuleError, aten, rule
from hograd_core.taylor._series import Coefficient, Series


def _apply(operation: Callable[..., Any], u: Series, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``operation`` on each coefficient; an operation with several results gives several series."""
    results = [None if c is None else operation(c, *args, **kwargs) for c in u.c]
    first = results[0]
    if not isinstance(first, list | tuple):
        return Series(results)
    columns = [[None if r is None else r[i] for r in results] for i in range(len(first))]
    return [Series(column) for column in columns]


def _linear(operation: Any) -> None:
    """Declare an operation that is linear in its first argument."""

    def function(u: Series, *args: Any, **kwargs: Any) -> Any:
        return _apply(operation, u, args, kwargs)

    rule(operation)(function)


for _operation in (
    aten.expand, aten.permute, aten.transpose, aten.t, aten.unsqueeze, aten.squeeze, aten.select, aten.slice,
    aten.unfold, aten.flip, aten.roll, aten.diagonal, aten.repeat, aten.tril, aten.triu, aten.trace, aten.diag_embed,
    # A detach that arrives here is autograd's own, of a tensor that it saves.
    aten.detach, aten.alias, aten.clone, aten.sum, aten.mean, aten.cumsum, aten.split, aten.split_with_sizes,
    aten.unsafe_split, aten.unsafe_split_with_sizes, aten.unsafe_chunk, aten.unbind,
    aten.index_select, aten.gather, aten.take, aten.index, aten.embedding, aten.masked_select,
    aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d,
    aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d, aten.reflection_pad1d, aten.reflection_pad2d,
    aten.replication_pad1d, aten.replication_pad2d, aten.upsample_nearest1d, aten.upsample_nearest2d,
    aten.upsample_bilinear2d, aten.upsample_linear1d, aten.upsample_bicubic2d, aten.im2col, aten.col2im,
    aten.pixel_shuffle, aten.pixel_unshuffle, aten.narrow_copy, aten.rot90, aten.lift_fresh_copy, aten.squeeze_copy,
    aten.replication_pad3d, aten.reflection_pad3d, aten.upsample_nearest3d, aten.upsample_trilinear3d,
    aten.select_backward, aten.slice_backward, aten.index_select_backward, aten.diagonal_backward,
    aten.unfold_backward, aten.embedding_dense_backward, aten._fft_r2c, aten._fft_c2c, aten._fft_c2r, aten.view_as_real,
    aten.view_as_complex, aten.conj_physical,
):  # fmt: skip
    _linear(_operation)


@rule(aten._conj)
def _conj(u: Series) -> Series:
    # Physical: a jet carries no conjugate bit, so nobody would resolve it.
    return u.map(torch.conj_physical)


@rule(aten._neg_view)
def _neg_view(u: Series) -> Series:
    return u.map(torch.neg)


def _linear_in_gradient(operation: Any) -> None:
    """Declare a backward operation that is linear in its first argument and takes the branch alone from the others."""

    def function(u: Any, *args: Any, **kwargs: Any) -> Any:
        values = [a.primal if isinstance(a, Series) else a for a in args]
        if isinstance(u, Series):
            return _apply(operation, u, tuple(values), kwargs)
        return operation(u, *values, **{k: v.primal if isinstance(v, Series) else v for k, v in kwargs.items()})

    rule(operation)(function)


for _operation in (
    aten.max_pool2d_with_indices_backward, aten.max_pool3d_with_indices_backward, aten.adaptive_max_pool2d_backward,
    aten.adaptive_max_pool3d_backward, aten.fractional_max_pool2d_backward, aten.fractional_max_pool3d_backward,
    aten.avg_pool2d_backward, aten.avg_pool3d_backward, aten._adaptive_avg_pool2d_backward,
    aten._adaptive_avg_pool3d_backward, aten.reflection_pad1d_backward, aten.reflection_pad2d_backward,
    aten.reflection_pad3d_backward, aten.replication_pad1d_backward, aten.replication_pad2d_backward,
    aten.replication_pad3d_backward, aten.upsample_nearest1d_backward, aten.upsample_nearest2d_backward,
    aten.upsample_nearest3d_backward, aten.upsample_bilinear2d_backward, aten.upsample_linear1d_backward,
    aten.upsample_bicubic2d_backward, aten.upsample_trilinear3d_backward, aten.threshold_backward,
    aten.hardtanh_backward, aten.leaky_relu_backward, aten.hardsigmoid_backward,
):  # fmt: skip
    _linear_in_gradient(_operation)


@rule(aten.nansum)
def _nansum(u: Series, *args: Any, **kwargs: Any) -> Series:
    left_out = u.primal.isnan()
    return u.map(lambda c: torch.where(left_out, 0.0, c).sum(*args, **kwargs))


@rule(aten.view, aten._unsafe_view, aten.reshape)
def _view(u: Series, size: Any) -> Any:
    if isinstance(size, torch.dtype):
        raise MissingRuleError("aten.view.dtype", "a series has no meaning in another dtype's bits")
    # A coefficient may be strided unlike the value (an expanded one, say), where only a copy can be reshaped.
    return u.map(lambda c: c.reshape(size))


@rule(aten._to_copy)
def _to_copy(u: Series, *, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
    if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
        return aten._to_copy(u.primal.detach(), dtype=dtype, **kwargs)
    return u.map(lambda c: aten._to_copy(c, dtype=dtype, **kwargs))


@rule(aten.constant_pad_nd)
def _constant_pad(u: Series, pad: list[int], value: float = 0) -> Series:
    first = aten.constant_pad_nd(u.primal, pad, value)
    return Series([first, *(None if c is None else aten.constant_pad_nd(c, pad) for c in u.c[1:])])


def _degree(values: list[Any]) -> int:
    return next(v.degree for v in values if isinstance(v, Series))


def jointly(values: list[Any], function: Callable[[list[Tensor]], Any]) -> Series:
    """A map linear in several tensors at once: applied degree by degree, zeros standing in for absent coefficients."""
    degree = _degree(values)
    primals: list[Tensor] = [v.primal if isinstance(v, Series) else v for v in values]
    out: list[Coefficient] = [function(primals)]
    for k in range(1, degree + 1):
        parts = [v.c[k] if isinstance(v, Series) else None for v in values]
        if all(p is None for p in parts):
            out.append(None)
        else:
            out.append(function([torch.zeros_like(z) if p is None else p for p, z in zip(parts, primals, strict=True)]))
    return Series(out)


@rule(aten.cat)
def _cat(tensors: list[Any], dim: int = 0) -> Series:
    return jointly(list(tensors), lambda parts: torch.cat(parts, dim))


@rule(aten.stack)
def _stack(tensors: list[Any], dim: int = 0) -> Series:
    return jointly(list(tensors), lambda parts: torch.stack(parts, dim))


@rule(aten.where)
def _where(condition: Tensor, a: Any, b: Any) -> Series:
    a, b = (x if isinstance(x, Series | Tensor) else torch.as_tensor(x) for x in (a, b))
    primals: list[Tensor] = [x.primal if isinstance(x, Series) else x for x in (a, b)]
    dtype = torch.result_type(*primals)
    primals = [x.to(dtype) for x in primals]
    out: list[Coefficient] = [torch.where(condition, primals[0], primals[1])]
    for k in range(1, _degree([a, b]) + 1):
        parts = [x.c[k] if isinstance(x, Series) else None for x in (a, b)]
        if all(p is None for p in parts):
            out.append(None)
        else:
            # A new zero, so that an overflow in the branch not taken cannot reach the result as 0 * inf.
            zero = torch.zeros((), dtype=dtype, device=primals[0].device)
            first, second = (zero if p is None else p.to(dtype) for p in parts)
            out.append(torch.where(condition, first, second))
    return Series(out)


@rule(aten.masked_fill)
def _masked_fill(u: Any, mask: Tensor, value: Any) -> Series:
    return _where(mask, value if isinstance(value, Series | Tensor) else _like(u, value), u)


def _like(u: Any, value: float) -> Tensor:
    primal = u.primal if isinstance(u, Series) else u
    number: Tensor = torch.full((), value, dtype=primal.dtype, device=primal.device)
    return number


def _declare_joint(operation: Any, source: int) -> None:
    """Declare an operation linear in its first argument and in argument number ``source`` together."""

    def function(*args: Any, **kwargs: Any) -> Series:
        if kwargs.get("reduce") is not None:
            raise MissingRuleError(operation, "with reduce= it is not linear; use another method")
        values = [args[0], args[source]]
        if not isinstance(values[1], Series | Tensor):
            values[1] = _like(args[0], values[1])
            if operation is aten.scatter:
                values[1] = values[1].expand(args[2].shape)

        def on(parts: list[Tensor]) -> Tensor:
            filled = [*args]
            filled[0], filled[source] = parts
            result: Tensor = operation(*filled, **kwargs)
            return result

        return jointly(values, on)

    rule(operation)(function)


for _operation, _source in (
    (aten.scatter_add, 3), (aten.index_add, 3),
    (aten.select_scatter, 1), (aten.slice_scatter, 1), (aten.diagonal_scatter, 1), (aten.masked_scatter, 2),
):  # fmt: skip
    _declare_joint(_operation, _source)


def _copied(base: Any, source: Any, write: Callable[[Tensor, Tensor], Tensor]) -> Series:
    """A write of source into base: where an index is given twice, the coefficients follow the copy that stayed."""
    shape = (source.primal if isinstance(source, Series) else source).shape
    like = base.primal if isinstance(base, Series) else base
    number = torch.arange(shape.numel(), device=like.device).reshape(shape)
    kept = write(torch.full(like.shape, -1, dtype=torch.long, device=like.device), number)
    written, origin = kept >= 0, kept.clamp_min(0)
    if shape.numel() == 0:
        return base if isinstance(base, Series) else jointly([base, source], lambda parts: parts[0])
    return jointly(
        [base, source], lambda parts: torch.where(written, parts[1].to(like.dtype).reshape(-1)[origin], parts[0])
    )


def _tensor_like(source: Any, base: Any) -> Any:
    return source if isinstance(source, Series | Tensor) else _like(base, source)


@rule(aten.scatter)
def _scatter(base: Any, dim: int, index: Tensor, source: Any, *, reduce: str | None = None) -> Series:
    if reduce is not None:
        raise MissingRuleError("aten.scatter", "with reduce= it is not linear; use another method")
    source = _tensor_like(source, base)
    if (source.primal if isinstance(source, Series) else source).dim() == 0:
        source = _map(source, lambda c: c.expand(index.shape))
    return _copied(base, source, lambda out, new: aten.scatter(out, dim, index, new))


def _map(u: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return u.map(function) if isinstance(u, Series) else function(u)


@rule(aten.index_copy)
def _index_copy(base: Any, dim: int, index: Tensor, source: Any) -> Series:
    return _copied(base, source, lambda out, new: aten.index_copy(out, dim, index, new))


@rule(aten.index_put, aten._unsafe_index_put)
def _index_put(base: Any, indices: Any, source: Any, accumulate: bool = False) -> Series:
    if accumulate:
        return jointly([base, source], lambda parts: aten.index_put(parts[0], indices, parts[1], True))
    return _copied(base, source, lambda out, new: aten.index_put(out, indices, new))


@rule(aten.index_fill)
def _index_fill(base: Any, dim: int, index: Tensor, value: Any) -> Series:
    like = base.primal if isinstance(base, Series) else base
    mask = torch.zeros(like.shape, dtype=torch.bool, device=like.device).index_fill(dim, index, True)
    return _where(mask, _tensor_like(value, base), base)


@rule(aten.copy)
def _copy(base: Any, source: Any, non_blocking: bool = False) -> Any:
    like = base.primal if isinstance(base, Series) else base
    return _map(source, lambda c: c.to(like.dtype).expand(like.shape))


@rule(aten.complex)
def _complex(real: Any, imaginary: Any) -> Series:
    return jointly([real, imaginary], lambda parts: torch.complex(*torch.broadcast_tensors(*parts)))  # type: ignore[no-untyped-call]

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
    aten.index_select, aten.gather, aten.take, aten.index, aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d,
    aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d, aten.reflection_pad1d, aten.reflection_pad2d,
    aten.replication_pad1d, aten.replication_pad2d, aten.upsample_nearest1d, aten.upsample_nearest2d,
    aten.upsample_bilinear2d, aten.upsample_linear1d, aten.upsample_bicubic2d, aten.im2col, aten.col2im,
    aten.pixel_shuffle, aten.pixel_unshuffle, aten.narrow_copy, aten.rot90, aten.lift_fresh_copy, aten.squeeze_copy,
    aten.nansum, aten.select_backward, aten.slice_backward, aten.index_select_backward, aten.diagonal_backward,
    aten.unfold_backward, aten.avg_pool2d_backward, aten._fft_r2c, aten._fft_c2c, aten._fft_c2r, aten.view_as_real,
    aten.view_as_complex, aten._conj, aten.conj_physical,
):  # fmt: skip
    _linear(_operation)


@rule(aten.view, aten._unsafe_view, aten.reshape)
def _view(u: Series, size: Any) -> Any:
    if isinstance(size, torch.dtype):
        raise MissingRuleError("aten.view.dtype", "a series has no meaning in another dtype's bits")
    # A coefficient may be strided unlike the value (an expanded one, say), where only a copy can be reshaped.
    return u.map(lambda c: c.reshape(size))


@rule(aten._to_copy)
def _to_copy(u: Series, *, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
    if dtype is not None and not dtype.is_floating_point:
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
    (aten.scatter, 3), (aten.scatter_add, 3), (aten.index_add, 3), (aten.index_copy, 3), (aten.index_put, 2),
    (aten.select_scatter, 1), (aten.slice_scatter, 1), (aten.diagonal_scatter, 1), (aten.masked_scatter, 2),
):  # fmt: skip
    _declare_joint(_operation, _source)

"""How far a result is from its truth, and how far it may be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hograd_core._registry import Method


def relative_error(result: Any, truth: Any, scale: float | None = None) -> float:
    """Largest deviation of a result from its truth, leaf by leaf, relative to the largest entry of the leaf.

    In the maximum norm, so that one wrong entry among many shows in full. Where the truth of a leaf is zero
    everywhere there is no scale, and the deviation counts as it is. A missing or surplus leaf, another shape,
    NaN or infinity in either is an infinite error.

    Args:
        result: a tensor, a number, or tuples, lists, mappings, NamedTuples and dataclasses of them; any dtype, any
            device.
        truth: the same structure; a mapping in place of a NamedTuple or dataclass names the fields that count.
        scale: what the deviation is relative to; None, or 0: the largest entry of the leaf.

    Returns:
        The error, >= 0, or infinity.
    """
    worst = 0.0
    for ours, true in _paired(result, truth):
        if ours is None or true is None or ours.shape != true.shape:
            return math.inf
        ours, true = (_plain(t).detach().to("cpu", torch.float64) for t in (ours, true))
        if not bool(ours.isfinite().all() & true.isfinite().all()):
            return math.inf
        if true.numel():
            relative_to = scale or float(true.abs().max()) or 1.0
            worst = max(worst, float((ours - true).abs().max()) / relative_to)
    return worst


def _plain(tensor: Tensor) -> Tensor:
    """The tensor itself, or all entries of a sparse one."""
    return tensor if tensor.layout is torch.strided else tensor.to_dense()


def magnitude(result: Any, truth: Any) -> float:
    """Sum of the absolute entries of a result over that of its truth: 1 where an approximation has the right size.

    Args:
        result: as for :func:`relative_error`.
        truth: as for :func:`relative_error`.

    Returns:
        The ratio, >= 0; NaN where the truth is zero everywhere, or where the structures differ.
    """
    ours_total = true_total = 0.0
    for ours, true in _paired(result, truth):
        if ours is None or true is None:
            return math.nan
        ours_total += float(_plain(ours).detach().double().abs().sum())
        true_total += float(true.detach().double().abs().sum())
    return ours_total / true_total if true_total else math.nan


def _fields(structure: Any) -> Mapping[Any, Any] | None:
    """The named fields of a NamedTuple or dataclass, else None."""
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return dict(zip(structure._fields, structure, strict=True))
    if dataclasses.is_dataclass(structure) and not isinstance(structure, type):
        return {field.name: getattr(structure, field.name) for field in dataclasses.fields(structure)}
    return None


def _paired(result: Any, truth: Any) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Leaves side by side; None on one side where the structures differ."""
    if isinstance(truth, Tensor | int | float) and isinstance(result, Tensor | int | float):
        yield torch.as_tensor(result), torch.as_tensor(truth)
        return
    named = _fields(result)
    if named is not None and isinstance(truth, Mapping):
        result = {name: value for name, value in named.items() if name in truth}
    elif named is not None:
        result, truth = named, _fields(truth)
    if isinstance(truth, Mapping) and isinstance(result, Mapping) and truth.keys() == result.keys():
        for key in truth:
            yield from _paired(result[key], truth[key])
    elif isinstance(truth, tuple | list) and isinstance(result, tuple | list) and len(truth) == len(result):
        for ours, true in zip(result, truth, strict=True):
            yield from _paired(ours, true)
    else:
        yield None, None


def tolerance(method: Method, dtype: torch.dtype, order: int) -> float:
    """Relative error that a method may have in a dtype.

    The method's own rule where it has one (approximations). Otherwise 64 · 4ᵏ · eps: rounding of some tens of
    operations, times a growth of about 4 for each of the k differentiations, which is what a further sweep adds to
    the number of operations. Never above 1/2: a result that is zero, or of the wrong sign, has an error of 1 or
    more and fails in every dtype.

    Args:
        method: the method's record.
        dtype: dtype that the method computed in.
        order: derivative order k.

    Returns:
        A bound for :func:`relative_error`.
    """
    eps = torch.finfo(dtype).eps
    if method.tolerance is not None:
        return method.tolerance(eps, order)
    return min(64 * 4.0**order * eps, 0.5)

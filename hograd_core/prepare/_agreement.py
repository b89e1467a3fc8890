"""Whether a prepared kernel computes what the eager method computes: compared once, before it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hograd_core.prepare._task import Task

_NEARBY = 2.0**-7
_ROUNDINGS = 16
"""Roundings of the largest entry, and responses to one rounding of the inputs, that two orders of operations may lie
apart."""


def nearby(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Inputs beside those given: x moved a little, with its signs kept, so that f is defined there; other directions.

    Args:
        inputs: x, and directions if there are any; numbers that are not floating, as labels, stay.
    """
    x, *directions = inputs
    moved = [(x * (1 + _NEARBY * _uniform(x, 1))).to(x.dtype) if x.dtype.is_floating_point else x]
    for i, v in enumerate(directions):
        scale = torch.where(v.abs() > 0, v.abs(), torch.ones_like(v))
        moved.append((scale * _uniform(v, 2 + i)).to(v.dtype) if v.dtype.is_floating_point else v)
    return moved


def _uniform(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return (torch.rand(like.shape, generator=generator, dtype=torch.float64, device="cpu") * 2 - 1).to(like)


def tolerance(reference: Tensor, again: Tensor) -> Tensor:
    """How far a right result may lie from the eager one, entry by entry.

    Args:
        reference: the eager result.
        again: the eager result with inputs moved by one rounding: what it owes to rounding is at least the difference.
            (f's own tensors are of its dtype, so that f cannot in general be evaluated in float64.)
    """
    wide, other = reference.double(), again.double()
    eps = torch.finfo(reference.dtype).eps
    noise = (wide - other).abs().max() + eps * wide.abs().max()
    return _ROUNDINGS * (noise + 4 * eps * wide.abs())


_COMPARED_WHOLE = 64


def disagreement(
    task: Task, kernel: Callable[..., Tensor], inputs: Sequence[Tensor], args: Sequence[Tensor]
) -> str | None:
    """Why a kernel cannot be taken for what the task computes; None: they agree.

    Of a large Hessian products with two directions are compared, which every entry of it takes part in.

    Args:
        task: what is computed eagerly.
        kernel: (*inputs, *args) -> what should be the same.
        inputs: x, and directions if there are any: they are moved.
        args: what is given as it is.
    """
    at = nearby(inputs)
    if not task.is_coloured and (not task.is_hessian or at[0].numel() <= _COMPARED_WHOLE):
        return _compared(task.eager, kernel(*at, *args), at, args)
    whole = kernel(*at, *args)
    for seed in (21, 22):
        v = _uniform(at[0], seed)
        why = _compared(task.product.eager, times(whole, v), [*at, v], args)
        if why is not None:
            return why
    return None


def times(matrix: Tensor, v: Tensor) -> Tensor:
    """The product of a Hessian, dense or compressed, with a direction."""
    n = v.numel()
    if matrix.layout is torch.strided:
        return (matrix.view(n, n) @ v.view(n)).view(v.shape)
    rows = torch.repeat_interleave(torch.arange(n, device=v.device), matrix.crow_indices().diff())
    terms = matrix.values() * v.view(n)[matrix.col_indices()]
    return terms.new_zeros(n).index_add(0, rows, terms).view(v.shape)


def _compared(eager: Callable[..., Tensor], result: Tensor, at: Sequence[Tensor], args: Sequence[Tensor]) -> str | None:
    reference, again = response(eager, at, args)
    if not bool(reference.isfinite().all()):
        return "near x the eager result is not finite, so that nothing can be compared"
    return differs(reference, result, tolerance(reference, again))


def response(eager: Callable[..., Tensor], at: Sequence[Tensor], args: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The eager result, and that of inputs moved by one rounding."""
    rounded = [
        t * (1 + torch.finfo(t.dtype).eps * _uniform(t, 11 + i).sign()) if t.dtype.is_floating_point else t
        for i, t in enumerate(at)
    ]
    return eager(*at, *args), eager(*rounded, *args)


def differs(reference: Tensor, result: Tensor, allowed: Tensor) -> str | None:
    """Why a result is not the reference; None: it is, within what is allowed."""
    if (result.shape, result.dtype, result.device) != (reference.shape, reference.dtype, reference.device):
        return (
            f"it gives {tuple(result.shape)} {result.dtype} on {result.device}, "
            f"the eager method {tuple(reference.shape)} {reference.dtype} on {reference.device}"
        )
    error = (result.double() - reference.double()).abs()
    if reference.numel() and not bool((error <= allowed).all()):
        scale = float(reference.double().abs().max())
        return f"it differs from the eager method by {float(error.max()):.2g} where the largest entry is {scale:.2g}"
    return None

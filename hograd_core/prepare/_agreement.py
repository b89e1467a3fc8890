"""Whether a prepared kernel computes what the eager method computes: compared once, before it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from hograd_core.prepare._task import Task
from hograd_core.prepare.graphs._trace import DispatchMode

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


def _tolerance(reference: Tensor, noise: Tensor) -> Tensor:
    """How far a right result may lie from the eager one, entry by entry, of what that owes to rounding."""
    wide, eps = reference.double(), torch.finfo(reference.dtype).eps
    return _ROUNDINGS * (noise + eps * wide.abs().max() + 4 * eps * wide.abs())


class _Rounded(DispatchMode):  # type: ignore[no-untyped-call]
    """Has each operation give its result with one rounding more (Parker 1997, Monte Carlo arithmetic)."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one, and move what it made: neither views nor what it wrote to."""
        result = func(*args, **(kwargs or {}))
        given = {None, *map(_memory, tree_leaves((args, kwargs)))}
        for i, t in enumerate(tree_leaves(result)):
            if _memory(t) not in given and t.dtype.is_floating_point:
                t.mul_(1 + torch.finfo(t.dtype).eps * _uniform(t, i).sign())
        return result


def _memory(t: Any) -> int | None:
    """Whose memory a tensor has; None: it is none, or lies in no memory of its own."""
    return t.untyped_storage()._cdata if isinstance(t, Tensor) and t.layout is torch.strided else None


NOT_FINITE = "near x the eager result is not finite, so that nothing can be compared"
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
        return compared(task.eager, kernel(*at, *args), at, args)
    whole = kernel(*at, *args)
    for seed in (21, 22):
        v = _uniform(at[0], seed)
        why = compared(task.product.eager, times(whole, v), [*at, v], args)
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


def compared(eager: Callable[..., Tensor], result: Tensor, at: Sequence[Tensor], args: Sequence[Tensor]) -> str | None:
    """Why a result is not the eager one of (*at, *args); None: it is, to within what that owes to rounding.

    That is at least what it changes by where ``at`` is moved by one rounding; where terms cancel that hardly depend on
    it, what it changes by where each operation's result is, too, as far as that is little: ``eps^0.75`` of the largest
    entry. (f's own tensors are of its dtype, so that f cannot in general be evaluated in float64.)
    """
    reference = eager(*at, *args)
    if not bool(reference.isfinite().all()):
        return NOT_FINITE
    if not reference.numel():
        return _differs(reference, result, reference.double())
    moved = [
        t * (1 + torch.finfo(t.dtype).eps * _uniform(t, 11 + i).sign()) if t.dtype.is_floating_point else t
        for i, t in enumerate(at)
    ]

    def noise() -> Tensor:
        return (eager(*moved, *args).double() - reference.double()).abs().max()

    allowed = noise()
    why = _differs(reference, result, _tolerance(reference, allowed))
    if why is None:
        return None
    with _Rounded():  # type: ignore[no-untyped-call]
        every = noise()
    little = torch.finfo(reference.dtype).eps ** 0.75 * reference.double().abs().max()
    return _differs(reference, result, _tolerance(reference, torch.maximum(allowed, torch.minimum(every, little))))


def _differs(reference: Tensor, result: Tensor, allowed: Tensor) -> str | None:
    """Why a result is not the reference; None: it is, within what is allowed."""
    if (result.shape, result.dtype, result.device) != (reference.shape, reference.dtype, reference.device):
        return (
            f"it gives {tuple(result.shape)} {result.dtype} on {result.device}, "
            f"the eager method {tuple(reference.shape)} {reference.dtype} on {reference.device}"
        )
    error = (result.double() - reference.double()).abs()
    if not bool((error <= allowed).all()):
        scale = float(reference.double().abs().max())
        return f"it differs from the eager method by {float(error.max()):.2g} where the largest entry is {scale:.2g}"
    return None

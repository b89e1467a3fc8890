"""The two steps that every method built on the autograd tape shares."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_core._entrance import in_transform, kept


def leaf(x: Tensor) -> Tensor:
    """A tensor on x's storage that the tape records from; x itself stays as it is.

    Inside a larger derivative (:func:`kept`) it hangs on x's own graph, so that the result can be differentiated in x;
    a node of its own, so that what f takes from x by its closure is not counted.
    """
    # A view, not detach: a Taylor series of f's argument goes on through it as well.
    own = x.view_as(x) if kept() else x.detach()
    return own if own.requires_grad else own.requires_grad_()


def grad_or_zeros(
    y: Tensor,
    x: Tensor,
    *,
    create_graph: bool,
    retain_graph: bool | None = None,
    grad_outputs: Tensor | None = None,
    batched: bool = False,
) -> Tensor:
    """Gradient of y in x, with zeros where y does not depend on x (a constant's or a linear map's derivative).

    Args:
        y: a tensor; 0-dimensional unless ``grad_outputs`` is given.
        x: a tensor that was recorded from.
        create_graph: whether the result is differentiated again. False at the last order: a graph recorded
            there is never used and costs as much memory as all of the rows together. Always true inside a larger
            derivative.
        retain_graph: as in :func:`torch.autograd.grad`; None means ``create_graph``.
        grad_outputs: the cotangent of y, or a batch of them along dimension 0 with ``batched``.
        batched: vectorise over dimension 0 of ``grad_outputs``.

    Raises:
        RuntimeError: PyTorch has no derivative of a step of y.

    Returns:
        Shape of x, after the batch dimension where ``batched``.
    """
    create_graph = create_graph or kept()
    if batched:
        refuse_in_transform("vmap of a reverse sweep")
    if not y.requires_grad:
        batch = grad_outputs.shape[:1] if batched and grad_outputs is not None else ()
        return torch.zeros((*batch, *x.shape), dtype=x.dtype, device=x.device)
    # The stubs leave out that allow_unused gives None.
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        y,
        x,
        grad_outputs=grad_outputs,
        retain_graph=retain_graph,
        create_graph=create_graph,
        is_grads_batched=batched,
        allow_unused=True,
    )
    gradient = found[0]
    if gradient is None:
        refuse_once_differentiable(y)
        batch = grad_outputs.shape[:1] if batched and grad_outputs is not None else ()
        return torch.zeros((*batch, *x.shape), dtype=x.dtype, device=x.device)
    return gradient if create_graph else gradient.detach()


def refuse_in_transform(what: str) -> None:
    """Raise inside a transform of torch.func, from which autograd's own vmap lets tensors of a closed level escape."""
    if in_transform():
        raise RuntimeError(f"backward() called inside a functorch transform: {what}; use a method of torch.func there")


def refuse_once_differentiable(y: Tensor) -> None:
    """Raise where y stops depending on x at a backward marked ``@once_differentiable``.

    PyTorch cuts the tape there with an error node that ``inputs=`` never runs, and reports "unused" (2.13). Taken for
    a constant, the second derivative would be silently zero.
    """
    seen, stack = set(), [y.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("trying to differentiate twice a function that was marked with @once_differentiable")
        seen.add(node)
        stack.extend(parent for parent, _ in node.next_functions)

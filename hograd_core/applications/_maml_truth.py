"""The truth of the meta-gradient: the product of the matrices (I − α H_k), each Hessian formed entry by entry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hograd_core.applications.maml import Loss, MetaGradient, meta_gradient
from hograd_core.reference import truth


def _split(flat: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    pieces = torch.split(flat, [p.numel() for p in like.values()])
    return {name: piece.reshape(p.shape) for (name, p), piece in zip(like.items(), pieces, strict=True)}


def _derivatives(f: Any, at: Tensor, second: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Value, gradient and (where asked for) the Hessian, row by row."""
    x = at.detach().clone().requires_grad_(True)
    y = f(x)
    (g,) = torch.autograd.grad(y, [x], create_graph=second, allow_unused=True, materialize_grads=True)
    if not second:
        return y.detach(), g.detach(), None
    rows = [
        torch.autograd.grad(entry, [x], retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        if entry.requires_grad
        else torch.zeros_like(x)
        for entry in g.unbind()
    ]
    return y.detach(), g.detach(), torch.stack(rows).detach()


@truth(meta_gradient)
def _meta_gradient(
    model: nn.Module, loss: Loss, support: Any, query: Any, inner_steps: int, inner_rate: float
) -> MetaGradient:
    names: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start = torch.cat([p.detach().reshape(-1) for p in names.values()])
    values, gradients = [], []
    for xs, ys, xq, yq in zip(*support, *query, strict=True):

        def objective(flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return loss(torch.func.functional_call(model, _split(flat, names), (x,)), y)

        point, chain = start, torch.eye(start.numel(), dtype=start.dtype)
        for _ in range(inner_steps):
            _, g, hessian = _derivatives(lambda flat, x=xs, y=ys: objective(flat, x, y), point, True)
            assert hessian is not None
            chain = chain @ (torch.eye(start.numel(), dtype=start.dtype) - inner_rate * hessian)
            point = point - inner_rate * g
        value, g, _ = _derivatives(lambda flat, x=xq, y=yq: objective(flat, x, y), point, False)
        values.append(value)
        gradients.append(chain @ g)
    return MetaGradient(torch.stack(values).mean(), _split(torch.stack(gradients).mean(0), names))

"""The truth of the gradient penalties: sample by sample, coordinate by coordinate, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hograd_core.applications.gradient_penalty import (
    Penalty,
    gradient_penalty,
    lipschitz_penalty,
    r1_penalty,
)
from hograd_core.reference import truth


def _score(critic: nn.Module, flat: Tensor, like: Tensor) -> Tensor:
    score: Tensor = critic(flat.reshape(1, *like.shape)).sum()
    return score


def _sample(critic: nn.Module, x: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
    """g = ∇_x D of one sample as numbers, and ∂g_j/∂θ for every coordinate j, each differentiated alone."""
    parameters = [p for p in critic.parameters() if p.requires_grad]
    flat = x.detach().flatten().requires_grad_(True)
    y = _score(critic, flat, x)
    if not y.requires_grad:
        return torch.zeros_like(flat), []
    (g,) = torch.autograd.grad(y, [flat], create_graph=True, allow_unused=True, materialize_grads=True)
    rows: list[list[Tensor]] = []
    for entry in g.unbind() if g.requires_grad else ():
        found = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(list(found))
    return g.detach(), rows


def _mean(critic: nn.Module, points: Tensor, kind: str, target: float) -> Penalty:
    names = [name for name, p in critic.named_parameters() if p.requires_grad]
    total = torch.zeros((), dtype=torch.float64)
    gradient = {name: torch.zeros_like(p) for name, p in critic.named_parameters() if p.requires_grad}
    for x in points:
        g, rows = _sample(critic, x)
        norm = float(torch.linalg.vector_norm(g))
        excess = norm - target
        if kind == "r1":
            value, factor = norm**2 / 2, 1.0
        elif kind == "one-sided" and excess <= 0:
            value, factor = 0.0, 0.0
        else:
            # At norm 0 the derivative does not exist; 0 is a subgradient of the norm there.
            value, factor = excess**2, 2 * excess / norm if norm > 0 else 0.0
        total += value
        for weight, row in zip((factor * g).tolist(), rows, strict=False):
            for name, d in zip(names, row, strict=True):
                gradient[name] += weight * d
    count = points.shape[0]
    return Penalty(total / count, {name: (d / count).detach() for name, d in gradient.items()})


@truth(gradient_penalty)
def _gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mixing: Tensor, target: float = 1.0) -> Penalty:
    return _mean(critic, mixing * real + (1 - mixing) * fake, "two-sided", target)


@truth(lipschitz_penalty)
def _lipschitz_penalty(critic: nn.Module, real: Tensor, fake: Tensor, mixing: Tensor, target: float = 1.0) -> Penalty:
    return _mean(critic, mixing * real + (1 - mixing) * fake, "one-sided", target)


@truth(r1_penalty)
def _r1_penalty(critic: nn.Module, real: Tensor) -> Penalty:
    return _mean(critic, real, "r1", 0.0)

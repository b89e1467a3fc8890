"""The truth of the operators on fields: point by point and coordinate by coordinate, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hograd_core.applications._equations import Equation
from hograd_core.applications._partials import Field
from hograd_core.applications._polarisation import Index
from hograd_core.applications.pinn import ResidualLoss, bilaplacian, laplacian, partial_derivatives, residual_loss
from hograd_core.reference import Truth, truth


def _at(u: Field, point: Tensor, indices: Sequence[Index]) -> Tensor:
    """Partial derivatives at one point, each by differentiating in one number after another, nothing shared."""
    rows = []
    for index in indices:
        coordinates = [c.detach().clone().requires_grad_(True) for c in point.unbind()]
        y = u(torch.stack(coordinates).unsqueeze(0)).sum()
        # The highest coordinate first: the kernels take the lowest first.
        for c in sorted(index, reverse=True):
            if y.requires_grad:
                (y,) = torch.autograd.grad(
                    y, [coordinates[c]], create_graph=True, allow_unused=True, materialize_grads=True
                )
            else:
                y = torch.zeros((), dtype=point.dtype)
        rows.append(y)
    return torch.stack(rows)


def _everywhere(u: Field, points: Tensor, indices: Sequence[Index]) -> Tensor:
    with torch.enable_grad():
        return torch.stack([_at(u, point, indices) for point in points], dim=1)


@truth(partial_derivatives)
def _partial_derivatives(u: Field, points: Tensor, indices: Sequence[Index]) -> Tensor:
    return _everywhere(u, points, indices).detach()


def _summed(rows: Tensor) -> Truth:
    # The terms may cancel: rounding of the largest sum of their sizes is the best that can be had.
    rows = rows.detach()
    return Truth(rows.sum(0), float(rows.abs().sum(0).max()))


@truth(laplacian)
def _laplacian(u: Field, points: Tensor) -> Truth:
    return _summed(_everywhere(u, points, [(i, i) for i in range(points.shape[1])]))


@truth(bilaplacian)
def _bilaplacian(u: Field, points: Tensor) -> Truth:
    d = points.shape[1]
    return _summed(_everywhere(u, points, [(i, j, i, j) for i in range(d) for j in range(d)]))


@truth(residual_loss)
def _residual_loss(u: nn.Module, points: Tensor, equation: Equation) -> ResidualLoss:
    names = [name for name, p in u.named_parameters() if p.requires_grad]
    parameters = [p for p in u.parameters() if p.requires_grad]
    total = torch.zeros((), dtype=points.dtype)
    gradient = {name: torch.zeros_like(p) for name, p in zip(names, parameters, strict=True)}
    for point in points:
        derivatives = _everywhere(u, point.unsqueeze(0), equation.indices)
        r = equation.residual(point.unsqueeze(0), *derivatives.unbind(0)).sum()
        found = torch.autograd.grad(r, parameters, allow_unused=True, materialize_grads=True)
        total += r.detach() ** 2
        for name, g in zip(names, found, strict=True):
            gradient[name] += 2 * r.detach() * g
    count = points.shape[0]
    return ResidualLoss(total / count, {name: (g / count).detach() for name, g in gradient.items()})

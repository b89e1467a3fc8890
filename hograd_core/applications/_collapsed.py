"""Laplacians and bi-Laplacians as weighted sums of directional derivatives, in one collapsed Taylor pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hograd_core._entrance import kept
from hograd_core.applications._calls import watched_call
from hograd_core.applications._fields import without_graph
from hograd_core.applications._partials import Field, values
from hograd_core.applications._polarisation import Direction, Index, expand
from hograd_core.taylor import summed_along


def summed_partials(u: Field, points: Tensor, indices: Sequence[Index], weights: Sequence[float]) -> Tensor:
    """Σ w ∂^index u at every point, of indices of one order.

    Args:
        u: the field.
        points: shape (N, d).
        indices: tuples of coordinates, all of one length.
        weights: one for each.

    Returns:
        Shape (N,).
    """
    order = len(indices[0])
    totals: dict[Direction, float] = {}
    for index, weight in zip(indices, weights, strict=True):
        for direction, share in expand(index, points.shape[1]).terms:
            totals[direction] = totals.get(direction, 0.0) + weight * share / math.factorial(order)
    found = {direction: total for direction, total in totals.items() if total}
    directions = torch.tensor(list(found), dtype=points.dtype, device=points.device)
    return summed(u, points, directions[:, None].expand(-1, *points.shape), order, list(found.values()))


def summed(u: Field, points: Tensor, directions: Tensor, order: int, weights: Sequence[float]) -> Tensor:
    """Σ_r w_r dᵏ/dtᵏ u(x + t v_r) at every point, shape (N,); directions of shape (R, N, d)."""
    field = watched_call(without_graph(u))
    return summed_along(lambda x: values(field, x), points, directions, order, weights, recorded=kept())

"""Fields u: ℝᵈ → ℝ over a batch of points, as callers give them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hograd_core._checks import check_point
from hograd_core._entrance import kept
from hograd_core.applications._modules import called_with, check_samplewise, detached
from hograd_core.applications._partials import Field


def check_field(u: Any, points: Any) -> tuple[Field, Tensor]:
    if not callable(u):
        raise TypeError(f"u: got {type(u).__name__}, expected a callable from (N, d) to (N,) or (N, 1)")
    if not isinstance(points, Tensor):
        raise TypeError(f"points: got {type(points).__name__}, expected a torch.Tensor of shape (N, d)")
    if points.dim() != 2 or points.numel() == 0:
        raise ValueError(f"points: got shape {tuple(points.shape)}, expected (N, d) with at least one element")
    if isinstance(u, nn.Module):
        check_samplewise(u, points, "points", "u")
    return u, check_point(points, "points")


def without_graph(u: Field) -> Field:
    """u with constant parameters where it is a module, unless a larger derivative uses the graph to them."""
    if kept():
        return u
    return called_with(u, detached(dict(u.named_parameters()))) if isinstance(u, nn.Module) else u

"""Laplacians and bi-Laplacians by random directions: unbiased, each with its standard error."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hograd_core._entrance import entrance, released
from hograd_core.applications._calls import watched_call
from hograd_core.applications._fields import check_field, without_graph
from hograd_core.applications._partials import Field, checked_generator, series_along
from hograd_core.hazards import guarded


class FieldEstimate(NamedTuple):
    """A stochastic estimate at each point.

    Attributes:
        value: shape (N,).
        standard_error: of the mean over probes, shape (N,); NaN for a single probe.
    """

    value: Tensor
    standard_error: Tensor


def rademacher(points: Tensor, probes: int, source: torch.Generator) -> Tensor:
    """Directions of ±1, independent at every point: shape (probes, N, d)."""
    bits = torch.randint(2, (probes, *points.shape), generator=source, device=source.device)
    return (2 * bits - 1).to(points)


def coordinates(points: Tensor, probes: int, source: torch.Generator) -> Tensor:
    """Unit vectors along coordinates drawn with replacement at every point: shape (probes, N, d)."""
    n, d = points.shape
    chosen = torch.randint(d, (probes, n), generator=source, device=source.device)
    return torch.nn.functional.one_hot(chosen, d).to(points)


def gaussian(points: Tensor, probes: int, source: torch.Generator) -> Tensor:
    """Normal directions, independent at every point: shape (probes, N, d)."""
    drawn = torch.randn((probes, *points.shape), generator=source, dtype=points.dtype, device=source.device)
    return drawn.to(points)


def _coefficient(u: Field, x: Tensor, directions: Tensor, order: int) -> Tensor:
    with guarded("laplacian estimate", ("taylor", order)):
        return series_along(watched_call(without_graph(u)), x, directions, order)[order]


def _estimate(samples: Tensor) -> FieldEstimate:
    n = samples.shape[0]
    error = samples.std(0) / math.sqrt(n) if n > 1 else torch.full_like(samples[0], math.nan)
    return FieldEstimate(released(samples.mean(0)), released(error))


@entrance
def hutchinson_laplacian(
    u: Field, points: Tensor, *, probes: int = 16, seed: int | None = None, generator: torch.Generator | None = None
) -> FieldEstimate:  # fmt: skip
    """FieldEstimate Δu as the mean of vᵀ∇²u v over Rademacher probes, independent at every point (Hutchinson 1990, §2).

    Unbiased; variance 2 Σ_{i≠j} (∂²u/∂x_i∂x_j)² / probes. Cost: one Taylor pass of degree 2 on probes · N points.

    Args:
        u: (N, d) -> (N,) or (N, 1).
        points: shape (N, d).
        probes: number of directions a point, >= 1.
        seed: of the directions; None: drawn from torch's global generator.
        generator: to draw from in place of the seed.

    Returns:
        The estimate and its standard error, detached but inside a larger derivative.
    """
    field, x = check_field(u, points)
    source = checked_generator(probes, seed, generator)
    return _estimate(_coefficient(field, x, rademacher(x, probes, source), 2) * 2)


@entrance
def sampled_laplacian(
    u: Field, points: Tensor, *, probes: int = 16, seed: int | None = None, generator: torch.Generator | None = None
) -> FieldEstimate:  # fmt: skip
    """FieldEstimate Δu as d times the mean of ∂²u/∂x_i² over coordinates drawn with replacement (Shi et al. 2024).

    Unbiased; exact for every draw where all second derivatives are equal.

    Args:
        u: (N, d) -> (N,) or (N, 1).
        points: shape (N, d).
        probes: number of coordinates a point, >= 1.
        seed: of the draw; None: drawn from torch's global generator.
        generator: to draw from in place of the seed.

    Returns:
        The estimate and its standard error, detached but inside a larger derivative.
    """
    field, x = check_field(u, points)
    source = checked_generator(probes, seed, generator)
    return _estimate(_coefficient(field, x, coordinates(x, probes, source), 2) * (2 * x.shape[1]))


@entrance
def gaussian_bilaplacian(
    u: Field, points: Tensor, *, probes: int = 16, seed: int | None = None, generator: torch.Generator | None = None
) -> FieldEstimate:  # fmt: skip
    """FieldEstimate Δ²u as the mean of D⁴u[v, v, v, v] / 3 over normal probes (Shi et al. 2024).

    Unbiased, since E v_i² v_j² = 1 + 2δ_ij. Cost: one Taylor pass of degree 4 on probes · N points.

    Args:
        u: (N, d) -> (N,) or (N, 1).
        points: shape (N, d).
        probes: number of directions a point, >= 1.
        seed: of the directions; None: drawn from torch's global generator.
        generator: to draw from in place of the seed.

    Returns:
        The estimate and its standard error, detached but inside a larger derivative.
    """
    field, x = check_field(u, points)
    source = checked_generator(probes, seed, generator)
    return _estimate(_coefficient(field, x, gaussian(x, probes, source), 4) * (24 / 3))

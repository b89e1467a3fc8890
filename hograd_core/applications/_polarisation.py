"""Mixed partial derivatives from derivatives along single directions.

For a symmetric k-tensor T and vectors v_1 … v_k, T[v_1, …, v_k] = Σ_σ (Π_i σ_i) T[w_σ, …, w_σ] / (2ᵏ k!) over all signs
σ, with w_σ = Σ_i σ_i v_i (the polarisation identity). With unit vectors many w_σ coincide or are parallel: those are
merged, so that ∂⁴/∂x²∂y² takes four directions, where the interpolation of Griewank, Utke & Walther 2000
(:mod:`hograd_core.applications._interpolation`) takes five; of all derivatives of an order that takes fewer.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

Index = tuple[int, ...]
Direction = tuple[int, ...]


@dataclass(frozen=True)
class Expansion:
    """∂^index u = Σ weight · (coefficient of tᵏ of u(x + t direction)), k = len(index)."""

    order: int
    terms: tuple[tuple[Direction, float], ...]


def expand(index: Sequence[int], dimension: int) -> Expansion:
    """The directions that one mixed partial derivative needs, and their weights.

    Args:
        index: the coordinates differentiated by, in any order, repeated as often as they are; not empty.
        dimension: number of coordinates.

    Returns:
        Directions with coprime integer entries, first nonzero one positive.
    """
    order = len(index)
    counts = Counter(index)
    coordinates = sorted(counts)
    totals: dict[Direction, float] = {}
    for minus in itertools.product(*(range(counts[c] + 1) for c in coordinates)):
        direction = [0] * dimension
        weight = 1
        for c, m in zip(coordinates, minus, strict=True):
            direction[c] = counts[c] - 2 * m
            weight *= (-1) ** m * math.comb(counts[c], m)
        scale = math.gcd(*direction)
        if scale == 0:
            continue
        if next(entry for entry in direction if entry) < 0:
            scale = -scale
        # Coefficient k along λw is λᵏ times that along w.
        primitive = tuple(entry // scale for entry in direction)
        totals[primitive] = totals.get(primitive, 0.0) + weight * float(scale) ** order / 2**order
    return Expansion(order, tuple(sorted((d, w) for d, w in totals.items() if w)))

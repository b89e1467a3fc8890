"""Mixed partial derivatives from a family of directions that all of them share (Griewank, Utke & Walther 2000).

Of d coordinates binom(d + D − 1, D) directions have nonnegative integer entries that sum to D. Univariate series along
these determine all derivatives of orders up to D: on the plane Σ z = D a form of degree m ≤ D is interpolated by its
values there, and its mixed differences are its coefficients. So all derivatives of order k take as many directions as
they are, those of lower orders none, where the polarisation identity takes up to 2ᵏ⁻¹ for each; a single one it takes
fewer.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from hograd_core.applications._partials import Field, rows_of
from hograd_core.applications._polarisation import Direction, Expansion, Index, expand


def interpolated(index: Sequence[int], dimension: int, degree: int) -> Expansion:
    """One mixed partial derivative from directions whose entries sum to ``degree``.

    Args:
        index: the coordinates differentiated by, in any order, repeated as often as they are; not empty.
        dimension: number of coordinates.
        degree: at least ``len(index)``.

    Returns:
        Directions with coprime nonnegative integer entries, of the coordinates in ``index`` alone.
    """
    order, counts = len(index), Counter(index)
    coordinates = sorted(counts)
    terms: dict[Direction, float] = {}
    for j in sums(len(coordinates), degree):
        weight = weight_of([counts[c] for c in coordinates], j)
        scale = math.gcd(*j)
        direction = [0] * dimension
        for c, entry in zip(coordinates, j, strict=True):
            direction[c] = entry // scale
        if weight:
            terms[tuple(direction)] = float(weight * scale**order)
    return Expansion(order, tuple(sorted(terms.items())))


def sums(parts: int, total: int) -> Iterator[tuple[int, ...]]:
    """Tuples of so many nonnegative integers with this sum."""
    for bars in itertools.combinations(range(total + parts - 1), parts - 1):
        ends = (-1, *bars, total + parts - 1)
        yield tuple(b - a - 1 for a, b in itertools.pairwise(ends))


def weight_of(i: Sequence[int], j: Sequence[int]) -> Fraction:
    """The share that coefficient |i| along j has in ∂^i: Σ_{0 < k ≤ i} (−1)^|i−k| C(i, k) C(D k/|k|, j) (|k|/D)^|i|."""
    order, degree = sum(i), sum(j)
    total = Fraction(0)
    for k in itertools.product(*(range(n + 1) for n in i)):
        size = sum(k)
        if not size:
            continue
        chosen = math.prod(map(math.comb, i, k))
        between = math.prod(
            (_binomial(Fraction(degree * a, size), b) for a, b in zip(k, j, strict=True)), start=Fraction(1)
        )
        total += (-1) ** (order - size) * chosen * between * Fraction(size, degree) ** order
    return total


def _binomial(top: Fraction, bottom: int) -> Fraction:
    return math.prod((top - n for n in range(bottom)), start=Fraction(1)) / math.factorial(bottom)


@functools.lru_cache(maxsize=64)
def fewest(indices: tuple[Index, ...], dimension: int) -> tuple[Expansion | None, ...]:
    """Expansions of several derivatives that take few directions together; None: of the value itself.

    Interpolated from the highest order down, each from the degree that takes the fewest further directions; or
    polarised, where that takes fewer.
    """
    distinct = sorted({tuple(sorted(index)) for index in indices if index}, key=len, reverse=True)
    found: dict[Index, Expansion] = {}
    taken: set[Direction] = set()
    for index in distinct:
        candidates = [interpolated(index, dimension, degree) for degree in range(len(index), len(distinct[0]) + 1)]
        found[index] = min(candidates, key=lambda c: len(_directions(c) - taken))
        taken |= _directions(found[index])
    polarised = {index: expand(index, dimension) for index in distinct}
    if len(set().union(*map(_directions, polarised.values()))) < len(taken):
        found = polarised
    return tuple(found[tuple(sorted(index))] if index else None for index in indices)


def _directions(expansion: Expansion) -> set[Direction]:
    return {direction for direction, _ in expansion.terms}


def interpolated_rows(
    u: Field, points: Tensor, indices: Sequence[Index], recorded: bool = True, *, chunk_size: int | None = None
) -> Tensor:  # fmt: skip
    """The derivatives at every point, (len(indices), N): a kernel like those in ``_partials``."""
    return rows_of(u, points, fewest(tuple(indices), points.shape[1]), chunk_size, _summed)


def _summed(weights: Sequence[float], rows: Sequence[Tensor]) -> Tensor:
    along = torch.stack(list(rows))
    return torch.tensor(weights, dtype=along.dtype, device=along.device) @ along

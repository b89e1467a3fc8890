"""A polynomial of degree 5 whose cross terms couple three neighbours: distinct entries at every order up to 5."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from hograd_bench.problems._closed_forms import along_lines
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._series import Series


@problem(
    "polynomial",
    formula="f(x) = Σᵢ xᵢ³ + xᵢ yᵢ² + xᵢ² yᵢ² zᵢ, yᵢ = xᵢ₊₁, zᵢ = xᵢ₊₂, indices cyclic",
    source="own; cross terms as in x₁³ + x₁x₂² of the chapter's manual Hessian",
    family="elementwise",
    sizes={"n": "dimension of x"},
    # x³: 2, y²: 1, x y²: 1, x²: 1, x² y² z: 2 multiplications; two sums a term.
    operations=lambda s: {"mul": 7 * s.n, "add": 2 * s.n + s.n - 1},
)
def polynomial(spec: Spec, draw: Draw) -> Instance:
    """x in [1/2, 3/2): all monomials are positive, so no derivative suffers cancellation."""
    x = draw.uniform(spec.n, low=0.5, high=1.5)

    def f(x: Tensor) -> Tensor:
        y, z = x.roll(-1), x.roll(-2)
        y2 = y**2
        return (x**3 + x * y2 + x**2 * y2 * z).sum()

    def value(x: Series) -> Series:
        y, z = x.map(lambda c: c.roll(-1)), x.map(lambda c: c.roll(-2))
        return (x * x * x + x * y * y + x * x * y * y * z).map(torch.sum)

    def gradient(x: Series) -> Series:
        y, z = x.map(lambda c: c.roll(-1)), x.map(lambda c: c.roll(-2))
        by_x = x * x * 3.0 + y * y + x * y * y * z * 2.0
        by_y = (x * y + x * x * y * z) * 2.0
        by_z = x * x * y * y
        return by_x + by_y.map(lambda c: c.roll(1)) + by_z.map(lambda c: c.roll(2))

    def tensor(order: int) -> Tensor:
        result = torch.zeros(x.shape * order, dtype=x.dtype, device=x.device)
        for exponents in _monomials(spec.n):
            variables = [i for i, power in exponents.items() for _ in range(power)]
            for slots in _distinct_arrangements(variables, order):
                taken = Counter(slots)
                entry = x.new_ones(())
                for i, power in exponents.items():
                    entry = entry * math.perm(power, taken[i]) * x[i] ** (power - taken[i])
                result[slots] += entry
        return result

    return Instance(f, x, closed_form=along_lines(x, value, gradient, tensor))


def _monomials(n: int) -> Iterator[Counter[int]]:
    """Exponents of each monomial by variable; neighbours coincide where n < 3."""
    for i in range(n):
        y, z = (i + 1) % n, (i + 2) % n
        yield Counter([i] * 3)
        yield Counter([i, y, y])
        yield Counter([i, i, y, y, z])


def _distinct_arrangements(variables: list[int], size: int) -> set[tuple[int, ...]]:
    """Index tuples of that size that use each variable at most as often as it occurs."""
    found: set[tuple[int, ...]] = {()}
    counts = Counter(variables)
    for _ in range(size):
        found = {(*t, i) for t in found for i in counts if t.count(i) < counts[i]}
    return found

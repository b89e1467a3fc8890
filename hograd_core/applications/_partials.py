"""Partial derivatives of u: ℝᵈ → ℝ over a batch of points, several at once, by each mode of differentiation.

Every kernel takes (u, points, indices) with points of shape (N, d) and returns shape (len(indices), N). An index is a
tuple of coordinates, () for u itself, (0, 0, 1) for ∂³u/∂x²∂y. Results stay on the graph of u's parameters, but
for those of ``nested_reverse`` with ``recorded=False``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import check_chunk_size, check_positive
from hograd_core._entrance import in_transform
from hograd_core._forward import jvp
from hograd_core._unsupported import UnsupportedError
from hograd_core.applications._polarisation import Direction, Expansion, Index, expand
from hograd_core.arguments import in_chunks, slices
from hograd_core.derivatives._autograd import grad_or_zeros, leaf
from hograd_core.prepare import assume, tracing
from hograd_core.taylor import propagate

Field = Callable[[Tensor], Any]
Kernel = Callable[..., Tensor]


def values(u: Field, points: Tensor) -> Tensor:
    """u at the points, shape (N,).

    Raises:
        TypeError: u returned something else than a real floating tensor.
        ValueError: its shape is neither (N,) nor (N, 1).
    """
    y = u(points)
    n = points.shape[0]
    if not isinstance(y, Tensor) or not y.dtype.is_floating_point:
        raise TypeError(f"u: returned {getattr(y, 'dtype', type(y).__name__)}, expected a real floating tensor")
    if y.shape not in ((n,), (n, 1)):
        raise ValueError(f"u: returned shape {tuple(y.shape)}, expected ({n},) or ({n}, 1), one value a point")
    return y.reshape(n)


def nested_reverse(u: Field, points: Tensor, indices: Sequence[Index], recorded: bool = True) -> Tensor:
    """One reverse sweep a derivative and prefix: ∂u, then ∂ of each component asked for; prefixes are shared."""
    wanted = [tuple(sorted(index)) for index in indices]
    prefixes = sorted({index[:k] for index in wanted for k in range(len(index))}, key=len)
    x = leaf(points)
    found: dict[Index, Tensor] = {(): values(u, x)}
    for prefix in prefixes:
        # A sweep records itself only where it is differentiated further, or trained through.
        k = len(prefix)
        deeper = any(len(other) > k and other[:k] == prefix for other in prefixes)
        g = grad_or_zeros(found[prefix].sum(), x, create_graph=recorded or deeper, retain_graph=True)
        for c in {index[k] for index in wanted if len(index) > k and index[:k] == prefix}:
            child = (*prefix, c)
            found[child] = g[:, c]
    return torch.stack([found[index] for index in wanted])


def _forward(h: Callable[[Tensor], Tensor], points: Tensor, direction: Tensor) -> Callable[[Tensor], Tensor]:
    """The derivative of h along one direction, the same at all points."""

    def along(x: Tensor) -> Tensor:
        tangent: Tensor = jvp(h, (x,), (direction.expand_as(points),))[1]
        return tangent

    return along


def _vectorised(
    h: Callable[[Tensor], Tensor], points: Tensor, indices: Sequence[Index], chunk_size: int | None
) -> Tensor:
    """Nested forward mode along unit vectors, the tuples of unit vectors as one more batch dimension."""
    order = len(indices[0])
    if order == 0:
        return torch.stack([h(points)] * len(indices))
    units = torch.eye(points.shape[1], dtype=points.dtype, device=points.device)
    directions = units[torch.tensor(indices, device=points.device)]

    def one(chosen: Tensor) -> Tensor:
        return functools.reduce(lambda g, v: _forward(g, points, v), chosen.unbind(0), h)(points)

    m = len(indices)

    def piece(part: slice) -> Tensor:
        found: Tensor = torch.func.vmap(one)(directions if part == slice(0, m) else directions[part])
        return found

    result: Tensor = in_chunks(piece, m, check_chunk_size(chunk_size))
    # Nested forward mode takes some constants to float64.
    return result.to(points.dtype)


def _by_order(
    kernel: Callable[[Sequence[Index]], Tensor], indices: Sequence[Index], key: Callable[[Index], object]
) -> Tensor:
    """Run a kernel once for each group of indices that can share a pass, and put the rows back in order."""
    groups: dict[object, list[int]] = {}
    for position, index in enumerate(indices):
        groups.setdefault(key(index), []).append(position)
    rows: list[Tensor | None] = [None] * len(indices)
    for positions in groups.values():
        for position, row in zip(positions, kernel([indices[p] for p in positions]), strict=True):
            rows[position] = row
    return torch.stack([row for row in rows if row is not None])


def nested_forward(
    u: Field, points: Tensor, indices: Sequence[Index], recorded: bool = True, *, chunk_size: int | None = None
) -> Tensor:  # fmt: skip
    """Forward mode k deep (2ᵏ coefficients), all derivatives of one order vectorised."""
    function = functools.partial(values, u)
    return _by_order(lambda group: _vectorised(function, points, group, chunk_size), indices, len)


def forward_over_reverse(
    u: Field, points: Tensor, indices: Sequence[Index], recorded: bool = True, *, chunk_size: int | None = None
) -> Tensor:  # fmt: skip
    """Forward mode k − 1 deep over one reverse sweep, whose columns serve all derivatives with the same prefix."""

    def gradient(x: Tensor) -> Tensor:
        g: Tensor = torch.func.grad(lambda z: values(u, z).sum())(x)
        return g

    def group_of(group: Sequence[Index]) -> Tensor:
        if not group[0]:
            return torch.stack([values(u, points)] * len(group))
        prefixes = sorted({index[:-1] for index in group})
        columns = _vectorised(gradient, points, prefixes, chunk_size)
        return torch.stack([columns[prefixes.index(index[:-1])][:, index[-1]] for index in group])

    return _by_order(group_of, [tuple(sorted(index)) for index in indices], len)


def series_along(u: Field, points: Tensor, directions: Tensor, order: int) -> list[Tensor]:
    """Taylor coefficients of u along several directions at every point: in one pass, or, where u holds data of its own
    for each of the N points, in a pass a direction.

    Args:
        u: the field.
        points: shape (N, d).
        directions: shape (m, d), one for all points, or (m, N, d).
        order: highest degree, >= 1.

    Returns:
        order + 1 tensors of shape (m, N).
    """
    spread = directions[:, None].expand(-1, *points.shape) if directions.dim() == 2 else directions
    field = functools.partial(values, u)
    m, n = spread.shape[0], points.shape[0]
    if m > 1 and not in_transform():
        try:
            x = points.expand(m, *points.shape).reshape(m * n, -1)
            found = propagate(field, [x, spread.reshape(m * n, -1), *[None] * (order - 1)])
            rows = [c.reshape(m, n) for c in found]
            # All copies of a point must have its value: else u holds data of its own for each of the N points.
            copies = rows[0].detach()
            pair: tuple[Tensor, Tensor] = copies, copies[:1].expand_as(copies)
            close: Any = {"rtol": 1e-3, "equal_nan": True}
            # Op by op allclose is one call; a trace may not read what it gives.
            if assume(torch.isclose(*pair, **close).all()) if tracing() else torch.allclose(*pair, **close):
                return rows
        except UnsupportedError:
            raise
        except (RuntimeError, ValueError, IndexError):
            # Such data do not fit m copies of the points; where u itself is at fault, it will say so again.
            pass
    each = [propagate(field, [points, direction, *[None] * (order - 1)]) for direction in spread.unbind(0)]
    return [torch.stack(column) for column in zip(*each, strict=True)]


def rows_of(
    u: Field, points: Tensor, expansions: Sequence[Expansion | None], chunk_size: int | None,
    total: Callable[[Sequence[float], Sequence[Tensor]], Tensor],
) -> Tensor:  # fmt: skip
    """What expansions come to, None to u itself, (len(expansions), N); ``total`` adds terms with their weights.

    Each is made of its own directions alone: what is not finite along others is no part of it.
    """
    coefficients = _coefficients_along(u, points, expansions, chunk_size)
    plain = next(iter(coefficients.values()))[0] if coefficients else values(u, points)
    return torch.stack([
        plain if e is None else total([w for _, w in e.terms], [coefficients[d][e.order] for d, _ in e.terms])
        for e in expansions
    ])  # fmt: skip


def _coefficients_along(
    u: Field, points: Tensor, expansions: Sequence[Expansion | None], chunk_size: int | None
) -> dict[Direction, list[Tensor]]:  # fmt: skip
    """The series that expansions need, each direction propagated once, to the highest order it is needed for."""
    needed: dict[Direction, int] = {}
    for expansion in expansions:
        for direction, _ in expansion.terms if expansion else ():
            needed[direction] = max(needed.get(direction, 0), expansion.order if expansion else 0)
    coefficients: dict[Direction, list[Tensor]] = {}
    for order in sorted(set(needed.values())):
        group = [direction for direction, highest in needed.items() if highest == order]
        for chunk in slices(len(group), check_chunk_size(chunk_size)):
            part = group[chunk]
            series = series_along(u, points, torch.tensor(part, dtype=points.dtype, device=points.device), order)
            for row, direction in enumerate(part):
                coefficients[direction] = [c[row] for c in series]
    return coefficients


def taylor(
    u: Field, points: Tensor, indices: Sequence[Index], recorded: bool = True, *, chunk_size: int | None = None
) -> Tensor:  # fmt: skip
    """Truncated power series along the directions of the polarisation identity; one pass for each order needed."""
    dimension = points.shape[1]
    expansions = [expand(index, dimension) if index else None for index in indices]
    return rows_of(u, points, expansions, chunk_size, _added_up)


def _added_up(weights: Sequence[float], rows: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(rows[0])
    for weight, row in zip(weights, rows, strict=True):
        total = torch.add(total, row, alpha=weight)
    return total


def checked_generator(probes: Any, seed: Any, generator: Any) -> torch.Generator:
    """What to draw from: ``generator`` itself, or a CPU generator of this seed.

    Without either, the seed is drawn from torch's global generator: repeated calls differ, and ``torch.manual_seed``
    makes a program reproducible. A CPU generator gives the same probes on every device.

    Raises:
        TypeError: an argument is not of its kind.
        ValueError: no probe.
    """
    check_positive(probes, "probes")
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator: got {type(generator).__name__}, expected a torch.Generator or None")
        return generator
    if seed is None:
        seed = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: got {seed!r}, expected an int or None")
    return torch.Generator("cpu").manual_seed(seed)


def deepest(indices: Sequence[Index]) -> int:
    """The highest order among the indices, at least 1."""
    return max(1, *map(len, indices))


# The derivative methods of the same nesting of modes: of the kernel itself, and of a reverse sweep over it.
AMOUNTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "nested_reverse": ("double_backward", ("double_backward",)),
    "forward_over_reverse": ("jvp_of_grad", ("jvp_of_grad", "grad_of_jvp", "double_backward")),
    "nested_forward": ("nested_jvp", ("grad_of_jvp",)),
    "taylor": ("taylor", ("reverse_over_taylor",)),
    "interpolated_taylor": ("taylor", ("reverse_over_taylor",)),
}


def amounts(name: str, order: int, *, trained: bool = False) -> tuple[tuple[str, int], ...]:
    """What a kernel at this order amounts to; ``trained``: with a gradient in u's parameters over it."""
    return tuple((m, order + 1) for m in AMOUNTS[name][1]) if trained else ((AMOUNTS[name][0], order),)


# Name -> (kernel, mode, source, runs under torch.func); every operator on fields offers all of them.
KERNELS: dict[str, tuple[Kernel, str, str, bool]] = {
    "nested_reverse": (
        nested_reverse,
        "reverse, k deep",
        "Raissi et al. 2019, §2; torch.autograd.grad(create_graph=True)",
        False,
    ),
    "forward_over_reverse": (
        forward_over_reverse,
        "forward, k − 1 deep, over reverse, vectorised",
        "Pearlmutter 1994, §3; torch.func.jvp of torch.func.grad under vmap",
        True,
    ),
    "nested_forward": (
        nested_forward,
        "forward, k deep, vectorised",
        "Griewank & Walther 2008, §13 (nested tangents); torch.func.jvp under vmap",
        True,
    ),
    "taylor": (
        taylor,
        "Taylor",
        "Griewank & Walther 2008, §13.2; mixed derivatives by polarisation, cf. Griewank, Utke & Walther 2000",
        False,
    ),
}

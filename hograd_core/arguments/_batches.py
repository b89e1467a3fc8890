"""Batches: the same call at many points, for many directions, or with many data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hograd_core.arguments import _tree
from hograd_core.arguments._arrangement import Asked, Taking


@dataclass(frozen=True)
class Batch:
    """Arguments of which some have an axis that counts points.

    Attributes:
        size: how many points there are.
        leaves: of all batched arguments: x, directions and further arguments, in order.
        dims: the axis of each leaf that counts points; None: the leaf is the same at every point.
        structure: of the leaves.
        given: the operator's arguments. roles: which of them are what. asked: what else there is.
    """

    size: int
    leaves: tuple[Any, ...]
    dims: tuple[int | None, ...]
    structure: _tree.Structure
    given: Mapping[str, Any]
    roles: Taking
    asked: Asked

    def moved(self, part: slice) -> tuple[Any, ...]:
        """The leaves of some points."""
        return tuple(
            leaf if dim is None else leaf.narrow(dim, part.start, part.stop - part.start)
            for leaf, dim in zip(self.leaves, self.dims, strict=True)
        )

    def point(self, i: int) -> tuple[dict[str, Any], Asked]:
        """The arguments of one point."""
        pairs = zip(self.leaves, self.dims, strict=True)
        return self.of(tuple(leaf if dim is None else leaf.select(dim, i) for leaf, dim in pairs))

    def of(self, leaves: tuple[Any, ...]) -> tuple[dict[str, Any], Asked]:
        """The arguments of one point, from its leaves."""
        points, args = _tree.unflatten(leaves, self.structure)
        names = _names(self.roles)
        return {**self.given, **dict(zip(names, points, strict=True))}, replace(
            self.asked, args=tuple(args), in_dims=None
        )


def batch(given: Mapping[str, Any], roles: Taking, asked: Asked) -> Batch:
    """The arguments of a call with ``in_dims``.

    Raises:
        TypeError: an axis is no int, or counts points of what is no tensor.
        ValueError: ``in_dims`` does not match the arguments, an axis does not exist, or sizes differ.
    """
    names = _names(roles)
    points = [given[name] for name in names]
    flat, structure = _tree.flatten((points, list(asked.args)))
    labels = [f"{n}{p}" for n, v in zip(names, points, strict=True) for p in _tree.paths(v)]
    labels += [f"args[{i}]{p}" for i, v in enumerate(asked.args) for p in _tree.paths(v)]
    expected = ", ".join([*names, *(f"args[{i}]" for i in range(len(asked.args)))])
    dims = _spread(asked.in_dims, [*points, *asked.args], expected)
    sizes: dict[str, int] = {}
    found: list[int | None] = []
    for leaf, dim, label in zip(flat, dims, labels, strict=True):
        if dim is None:
            found.append(None)
            continue
        if not isinstance(leaf, Tensor) or isinstance(dim, bool) or not isinstance(dim, int):
            got = f"{dim!r} for {label}, {type(leaf).__name__}"
            raise TypeError(f"in_dims: got {got}, expected an int for a tensor, or None for what all points share")
        if not -leaf.dim() <= dim < leaf.dim():
            raise ValueError(f"in_dims: got {dim} for {label} of shape {tuple(leaf.shape)}, which has no such axis")
        sizes[label] = leaf.shape[dim]
        found.append(dim % leaf.dim())
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(
            f"in_dims: got axes of sizes {sizes}, expected one size >= 1 for all that count points, and at least one; "
            "give None for what all points share"
        )
    return Batch(next(iter(sizes.values())), tuple(flat), tuple(found), structure, given, roles, asked)


def _names(roles: Taking) -> tuple[str, ...]:
    """Of the arguments that may have an axis of points; of a model, whose parameters are the point, the directions."""
    return roles.directions if roles.point is None else (roles.point, *roles.directions)


def _spread(in_dims: Any, arguments: list[Any], expected: str) -> list[Any]:
    """An axis, or None, for every leaf of the arguments."""
    each = [in_dims] * len(arguments) if isinstance(in_dims, int) else in_dims
    if not isinstance(each, tuple | list) or len(each) != len(arguments):
        raise ValueError(f"in_dims: got {in_dims!r}, expected an int, or a tuple of one entry for each of {expected}")
    found: list[Any] = []
    for dim, argument in zip(each, arguments, strict=True):
        spread = _tree.broadcast(dim, _tree.flatten(argument)[1])
        if spread is None:
            raise ValueError(
                f"in_dims: got {dim!r}, which is no axis, None, nor a structure like the argument of {expected}"
            )
        found += spread
    return found


def vectorised(one: Any, batched: Batch, part: slice) -> Any:
    """``one(given, asked)`` at some points by ``torch.vmap``, along a first axis."""

    def of_leaves(*leaves: Any) -> Any:
        return one(*batched.of(leaves))

    return torch.func.vmap(of_leaves, in_dims=batched.dims)(*batched.moved(part))


def stacked(results: Any) -> Any:
    """The result at one point, along a first axis of one; numbers as tensors, sparse matrices as COO, which has it."""

    def lengthened(value: Any) -> Tensor:
        tensor = torch.as_tensor(value)
        return (tensor if tensor.layout is torch.strided else tensor.to_sparse()).unsqueeze(0)

    return _tree.mapped(lengthened, results)

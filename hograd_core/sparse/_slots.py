"""Which few directions each element of a tensor depends on, and where their derivatives lie: in slots of its own.

Of R directions an early value depends on a few, a feature of one particle on that particle's three. Its derivatives
fill K slots, number s for the s-th of its directions, instead of R rows that are mostly zero (Li et al. 2024, with a
mask of indices a tensor). Where elements of different directions meet, theirs are first moved to slots of the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hograd_core.arguments import _tree
from hograd_core.sparse._sets import Sets, TooManyError, empty, numbers, sets
from hograd_core.sparse._trace import Trace


@dataclass(frozen=True, eq=False)
class Reached:
    """What each element of a result depends on.

    Attributes:
        aligned: whether everything that enters an element lies in the slots that are the element's own.
        looked: whether this rests on positions, that is on values of tensors of numbers.
    """

    sets: Sets
    aligned: bool
    looked: bool


class _Reach(Trace):  # type: ignore[no-untyped-call]
    """Follows one operation, whatever it bends."""

    blind = True

    def __init__(self, given: Sequence[tuple[Tensor, Sets]]) -> None:
        super().__init__(torch.zeros(1, device="cpu"))
        self.n = given[0][1].n
        for tensor, found in given:
            self.assign(tensor, found)

    def interact(self, a: Sets, b: Sets) -> None:
        """Of no interest here."""


def reached(func: Any, args: Sequence[Any], kwargs: dict[str, Any], known: Sequence[tuple[Tensor, Sets]]) -> Any:
    """What the results of an operation depend on: its result with a :class:`Reached` for each tensor.

    Args:
        func: the operation.
        args: its arguments.
        kwargs: those by name.
        known: tensors among them, of storages of their own, and what their elements depend on.

    Raises:
        TooManyError: it cannot be told.
    """
    slots = max(int(s.sizes.max()) if s.m else 0 for _, s in known) + 1
    reach = _Reach([(tensor, _with_slots(s, slots)) for tensor, s in known])
    out = func(*args, **kwargs)
    reach.follow(func, args, kwargs, out)
    return _tree.mapped(lambda t: _told(reach, t, slots, known[0][1].n) if isinstance(t, Tensor) else t, out)


def _with_slots(found: Sets, slots: int) -> Sets:
    return Sets(found.starts, found.members * slots + _ranks(found), found.n * slots)


def _ranks(found: Sets) -> Tensor:
    return numbers(found.members.numel()) - found.starts[:-1].repeat_interleave(found.sizes)


def _told(reach: Trace, tensor: Tensor, slots: int, n: int) -> Reached:
    found = reach.sets_of(tensor)
    if found is None:
        return Reached(empty(tensor.numel(), n), True, reach.looked)
    plain = sets(found.rows, found.members // slots, found.m, n)
    same = plain.members.numel() == found.members.numel() and bool((_ranks(plain) == found.members % slots).all())
    return Reached(plain, same, reach.looked)


def along(found: Sets, shape: Sequence[int], axis: int) -> Sets:
    """Of each element of a tensor what all that lie with it along an axis depend on."""
    kept = [*shape]
    kept[axis] = 1
    m = math.prod(kept)
    return found.grouped(numbers(m).reshape(kept).expand(tuple(shape)).reshape(-1), m).spread(kept, shape)


class Move(NamedTuple):
    """From slots to others, or to a row for each direction.

    Attributes:
        points: how many were followed. shape: of the tensor at these, broadcast to that first where it is another.
        rows: how many there are afterwards.
        steps: of each row which one it is taken from, and where (bool, broadcast to the tensor; None: everywhere), one
            after the other; nothing is left where none applies.
    """

    points: int
    shape: tuple[int, ...]
    rows: int
    steps: list[tuple[list[int], Tensor | None]]

    def apply(self, each: Tensor, shape: Sequence[int]) -> Tensor:
        """The moved rows of coefficients, (rows, *shape), at any number of points.

        Raises:
            TooManyError: an axis goes through the points otherwise than point by point.
        """
        result: Any = 0.0
        each = each.reshape(each.shape[0], *(1,) * (len(shape) - each.dim() + 1), *each.shape[1:])
        for index, where in self.steps:
            rows = each
            if len(set(index)) == 1:
                rows = each[index[0] : index[0] + 1]
            elif index != [*range(each.shape[0])]:
                rows = each.index_select(0, torch.tensor(index, device=each.device))
            if where is None:
                result = rows
                continue
            for axis, size in enumerate(shape, 1):
                if where.shape[axis] not in (1, size):
                    if where.shape[axis] * self.points != self.shape[axis - 1]:
                        raise TooManyError
                    where = where.repeat(*(1,) * axis, size // where.shape[axis], *(1,) * (where.dim() - axis - 1))
            result = torch.where(torch.tensor(where.tolist(), device=each.device), rows, result)
        if not isinstance(result, Tensor):
            return each.new_zeros(self.rows, *shape)
        return result.expand(self.rows, *shape)


def move(found: Sets, to: Sets | None, rows: int, shape: tuple[int, ...], points: int) -> Move:
    """The move of a tensor's slots to those of larger sets.

    Args:
        found: of the tensor; number p R + r is direction r of point p.
        to: sets that hold these; None: a row for each of R = ``rows`` directions.
        rows: how many there shall be.
        shape: of the tensor.
        points: how many.
    """
    directions = found.n // points
    at = torch.full((found.m, max(1, int(found.sizes.max()))), -1, device="cpu")
    entry = (found.rows, _ranks(found))
    if to is None:
        at[entry] = found.members % directions
    else:
        places = found.n * to.rows + to.members  # sorted
        at[entry] = _ranks(to)[torch.searchsorted(places, found.n * found.rows + found.members)]
    owner = torch.full((found.m,), -1, device="cpu")
    owner[found.rows] = found.members // directions
    small = _without_repetition(at.reshape(*shape, -1), owner.reshape(shape), points)
    taken = small[None] == numbers(rows).reshape(-1, *(1,) * small.dim())
    taken = taken.movedim(-1, 1)  # row, slot, *shape
    some = taken.flatten(2).any(2)
    steps = []
    for number in range(int(some.sum(1).max())):
        slot = ((some.cumsum(1) == number + 1) & some).long()
        index = slot.argmax(1)
        where = taken[numbers(rows), index] & slot.any(1).reshape(-1, *(1,) * (small.dim() - 1))
        steps.append((index.tolist(), None if bool(where.all()) else where))
    return Move(points, shape, rows, steps)


def _without_repetition(at: Tensor, owner: Tensor, points: int) -> Tensor:
    """One entry of each axis along which all are alike, and one point's of an axis that goes through the points."""
    for axis in range(owner.dim()):
        size = at.shape[axis]
        if bool((at == at.narrow(axis, 0, 1)).all()):
            at, owner = at.narrow(axis, 0, 1), owner.narrow(axis, 0, 1) if size else owner
        elif points > 1 and size % points == 0:
            parts, owners = at.chunk(points, axis), owner.chunk(points, axis)
            apart = all(bool(((o == -1) | (o == p)).all()) for p, o in enumerate(owners))
            if apart and all(torch.equal(part, parts[0]) for part in parts):
                at, owner = parts[0], owners[0]
    return at

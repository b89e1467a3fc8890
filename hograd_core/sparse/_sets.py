"""Sets of indices, one for each element of a tensor, and the relation that pairs of such sets span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_MOST_AT_ONCE = 2**22
"""Pairs that are written out at a time, 32 MiB of them."""


def numbers(*bounds: int) -> Tensor:
    """``torch.arange`` on the CPU, whatever the default device."""
    return torch.arange(*bounds, device="cpu")


class TooManyError(Exception):
    """Sets or pairs grew beyond what a sparse pattern is worth."""


@dataclass(frozen=True, eq=False)
class Sets:
    """Sets of indices below n in compressed rows, each sorted.

    Attributes:
        starts: where each set begins in ``members``, and the end of the last; int64, (m + 1,).
        members: int64. n: the indices' bound.
    """

    starts: Tensor
    members: Tensor
    n: int

    @property
    def m(self) -> int:
        """Number of sets."""
        return self.starts.numel() - 1

    @property
    def sizes(self) -> Tensor:
        """Number of members of each set, (m,)."""
        return self.starts.diff()

    @property
    def rows(self) -> Tensor:
        """Which set each member is in."""
        return torch.repeat_interleave(numbers(self.m), self.sizes)

    def taken(self, index: Tensor) -> Sets:
        """Sets by position, (any number,); -1: an empty one."""
        empty = index < 0
        index = index.clamp_min(0)
        sizes = self.sizes[index].masked_fill(empty, 0)
        starts = starts_of(sizes)
        _bounded(int(starts[-1]), self.n)
        within = numbers(int(starts[-1])) - torch.repeat_interleave(starts[:-1], sizes)
        return Sets(starts, self.members[torch.repeat_interleave(self.starts[:-1][index], sizes) + within], self.n)

    def grouped(self, group: Tensor, m: int) -> Sets:
        """The union of all sets of a group, for m groups; ``group``: the group of each set, -1: none."""
        rows = group[self.rows]
        members = self.members if bool((group >= 0).all()) else self.members[rows >= 0]
        return sets(rows[rows >= 0], members, m, self.n)

    def spread(self, shape: Sequence[int], to: Sequence[int]) -> Sets:
        """The sets of a tensor of ``shape`` broadcast to another shape."""
        if tuple(shape) == tuple(to):
            return self
        return self.taken(numbers(self.m).reshape(tuple(shape)).expand(tuple(to)).reshape(-1))


def starts_of(sizes: Tensor) -> Tensor:
    """Where sets of these sizes begin, one after the other, and where the last ends."""
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _bounded(count: int, n: int) -> None:
    """Raise where sets hold more than a full pattern would."""
    if count > max(n * n, 2**16):
        raise TooManyError


def sets(rows: Tensor, members: Tensor, m: int, n: int) -> Sets:
    """m sets from pairs (set, member) in any order, repeated or not."""
    keys = (rows * n + members).unique()  # type: ignore[no-untyped-call]
    starts = starts_of(torch.bincount(keys // n, minlength=m))
    return Sets(starts, keys % n, n)


def empty(m: int, n: int) -> Sets:
    """m empty sets."""
    return Sets(torch.zeros(m + 1, dtype=torch.int64, device="cpu"), torch.zeros(0, dtype=torch.int64, device="cpu"), n)


def united(parts: Sequence[Sets]) -> Sets:
    """The unions, set by set, of parts with as many sets each."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return sets(torch.cat([p.rows for p in parts]), torch.cat([p.members for p in parts]), first.m, first.n)


def stacked(parts: Sequence[Sets]) -> Sets:
    """The sets of all parts one after the other."""
    starts = starts_of(torch.cat([p.sizes for p in parts]))
    return Sets(starts, torch.cat([p.members for p in parts]), parts[0].n)


class Pairs:
    """A symmetric relation on indices below n, which grows: the pattern of a Hessian.

    Args:
        n: the indices' bound.
        steps: pairs to write out at the most, repetitions included.
    """

    def __init__(self, n: int, steps: int) -> None:
        self.n = n
        self._keys = torch.zeros(0, dtype=torch.int64, device="cpu")
        self._left = steps

    def join(self, a: Sets, b: Sets) -> None:
        """Add all pairs of a member of a set of a with one of the set of b in the same place.

        Raises:
            TooManyError: everything is related, or more was asked for than ``steps``.
        """
        counts = a.sizes * b.sizes
        self._left -= int(counts.sum())
        if self._left < 0 or (self.n > 1 and bool((counts == self.n**2).any())):
            raise TooManyError
        ends = counts.cumsum(0)
        done = 0
        while done < a.m:
            before = int(ends[done - 1]) if done else 0
            stop = max(done + 1, int(torch.searchsorted(ends, before + _MOST_AT_ONCE, right=True)))
            self._add(a, b, slice(done, stop), counts)
            done = stop

    def _add(self, a: Sets, b: Sets, part: slice, counts: Tensor) -> None:
        sizes = counts[part]
        first = starts_of(sizes)
        within = numbers(int(first[-1])) - torch.repeat_interleave(first[:-1], sizes)
        row = torch.repeat_interleave(numbers(part.start, part.stop), sizes)
        width = b.sizes[row]
        i = a.members[a.starts[row] + within // width]
        j = b.members[b.starts[row] + within % width]
        self._keys = torch.cat([self._keys, (i * self.n + j).unique()]).unique()  # type: ignore[no-untyped-call]

    def pattern(self) -> Sets:
        """The relation as sets: of each index those it is related to, in either order."""
        i, j = self._keys // self.n, self._keys % self.n
        return sets(torch.cat([i, j]), torch.cat([j, i]), self.n, self.n)

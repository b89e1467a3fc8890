"""The record of one hazard, and which torch version's data hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Hazard:
    """An operator of PyTorch whose derivative is wrong by some methods from some order on.

    Attributes:
        operator: what a user calls, as torch names it.
        nodes: names of its nodes on the autograd tape, by which it is recognised.
        wrong: method of a derivative operator, or ``"*"`` for any, -> lowest order at which its result is wrong; higher
            orders count as wrong too.
        fault: the formula at fault, in words.
        versions: tested versions of torch that have it.
        when: whether a node of that name is concerned, by what it saved; None: always.
        substitute: whether ``repair=True`` has an exact form of it.
    """

    operator: str
    nodes: tuple[str, ...]
    wrong: Mapping[str, int]
    fault: str
    versions: tuple[str, ...]
    when: Callable[[Any], bool] | None = None
    substitute: bool = True

    def concerns(self, method: str, order: int) -> bool:
        """Whether a method's result at that order is wrong; ``"*"``: any method's."""
        if method == "*":
            return order >= min(self.wrong.values())
        return order >= self.wrong.get(method, self.wrong.get("*", order + 1))


def _place(version: str) -> int:
    """A number that orders versions: major, minor and patch as its digits."""
    major, minor, patch = [*(int(part) for part in re.findall(r"\d+", version.split("+")[0])), 0, 0, 0][:3]
    return (major * 1000 + minor) * 1000 + min(patch, 999)


def nearest_tested(version: str, tested: Sequence[str]) -> str:
    """The tested version whose data hold for ``version``: itself, else the nearest, of two equally near the newer."""
    place = _place(version)
    return min(tested, key=lambda candidate: (abs(_place(candidate) - place), -_place(candidate)))

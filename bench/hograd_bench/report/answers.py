"""The first screen: for each need the method to take, in a sentence; and every choice in tables, for the picker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hograd_bench import units
from hograd_bench.report import advice


@dataclass(frozen=True)
class Answer:
    """A need, answered in a sentence.

    Attributes:
        need: what is needed.
        order: of the derivative that the sentence speaks of.
        dimension: about which, in words.
        pick: the method to take there, whatever memory it takes.
    """

    need: advice.Need
    order: int
    dimension: str
    pick: advice.Pick

    @property
    def title(self) -> str:
        """``One Hessian-vector product``."""
        said = self.need.at(self.order)
        return said[:1].upper() + said[1:]


def answers(needs: Sequence[advice.Need]) -> list[Answer]:
    """The main needs that some method can be named for, at their largest measured dimensions."""
    found = []
    for need in (need for need in needs if need.main):
        spoken = need.spoken
        pick = spoken.picks[-1]
        if pick.method:
            found.append(Answer(need, spoken.order, f"n ≈ {pick.dimension:,.0f}", pick))
    return found


def tables(needs: Sequence[advice.Need]) -> list[dict[str, Any]]:
    """Every need with the names of its columns, any memory first: what the picker of the page reads."""
    return [
        {
            "need": need,
            "heads": ["any memory", *(f"≤ {units.binary(b)}" for b in need.budgets[:-1])],
            "rows": [(s.order, s.band, (s.picks[-1], *s.picks[:-1])) for s in need.situations],
        }
        for need in needs
    ]  # fmt: skip

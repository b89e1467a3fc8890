"""What a law can come out as when it does not come out as a law."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InsufficientData:
    """Not enough was measured to say anything.

    Attributes:
        have: what there is, in words.
        missing: what would have to be measured, in words.
    """

    have: str
    missing: str

    def __str__(self) -> str:
        return f"insufficient data: have {self.have}; missing {self.missing}"


@dataclass(frozen=True)
class NoExactLaw:
    """Enough was measured to say that no polynomial of the tried degrees goes through all of it.

    Attributes:
        reason: why, with the size and the amount by which the best candidate misses.
        max_degree: the largest degree tried in one variable.
    """

    reason: str
    max_degree: int

    def __str__(self) -> str:
        return f"no exact law: {self.reason}"

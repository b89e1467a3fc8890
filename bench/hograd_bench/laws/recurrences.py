"""Exact linear recurrences with integer coefficients, confirmed on terms that did not determine them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from hograd_bench.laws._linear import solve_consistent

MAX_LENGTH = 2


@dataclass(frozen=True)
class Recurrence:
    """a[k] = coefficients[0]·a[k−1] + coefficients[1]·a[k−2] + … + constant.

    Attributes:
        coefficients: whole numbers, the nearest predecessor's first.
        constant: a whole number.
        confirmed: how many terms were predicted beyond those that determine the recurrence.
        start: index of the first term used.
    """

    coefficients: tuple[int, ...]
    constant: int
    confirmed: int
    start: int

    @property
    def formula(self) -> str:
        """Text such as ``a(k) = 3·a(k−1) − a(k−2)``."""
        parts: list[str] = []
        for i, c in enumerate(self.coefficients, start=1):
            if c:
                size = "" if abs(c) == 1 else f"{abs(c)}·"
                parts.append(("−" if c < 0 else "+") + f" {size}a(k−{i})")
        if self.constant:
            parts.append(("−" if self.constant < 0 else "+") + f" {abs(self.constant)}")
        text = " ".join(parts) or "0"
        return "a(k) = " + text.removeprefix("+ ").replace("− ", "−", 1 if text.startswith("−") else 0)

    @property
    def base(self) -> float:
        """Modulus of the largest root of the characteristic polynomial: growth per term in the limit."""
        return float(max(abs(np.roots([1.0, *(-float(c) for c in self.coefficients)])), default=0.0))

    def extend(self, values: Sequence[int], count: int = 1) -> list[int]:
        """The next terms after ``values``.

        Raises:
            ValueError: fewer values than the recurrence looks back.
        """
        if len(values) < len(self.coefficients):
            raise ValueError(f"values: got {len(values)}, expected at least {len(self.coefficients)}")
        terms = list(values)
        for _ in range(count):
            terms.append(sum(c * terms[-i] for i, c in enumerate(self.coefficients, start=1)) + self.constant)
        return terms[len(values) :]


def find_recurrence(
    values: Sequence[int | Fraction], *, max_length: int = MAX_LENGTH, held_out: int = 1
) -> Recurrence | None:
    """The shortest recurrence with whole coefficients that reproduces every term.

    Recurrences without a constant come before those with one; first terms may be left out (as the small
    sizes of a law may) as long as the rest confirms. At least ``held_out`` terms are predicted, not fitted.

    Args:
        values: consecutive terms.
        max_length: how many predecessors it may use.
        held_out: least number of confirmed terms.

    Returns:
        The recurrence, or None where none of that length is confirmed.
    """
    terms = [Fraction(v) for v in values]
    for start in range(len(terms)):
        for length in range(1, max_length + 1):
            for constant in (False, True):
                unknowns = length + constant
                kept = terms[start:]
                equations = len(kept) - length
                # The first of two terms fits anything; what is left over confirms.
                if equations < unknowns + held_out or start > 1:
                    continue
                rows = [[kept[k - i] for i in range(1, length + 1)] for k in range(length, len(kept))]
                if constant:
                    rows = [[*row, Fraction(1)] for row in rows]
                solution = solve_consistent(rows, kept[length:])
                if solution is None or any(c.denominator != 1 for c in solution):
                    continue
                if solution[length - 1] == 0:
                    continue  # it looks back less far than it says: a shorter one, later start, is meant
                whole = [math.floor(c) for c in solution]
                return Recurrence(tuple(whole[:length]), whole[length] if constant else 0, equations - unknowns, start)
    return None

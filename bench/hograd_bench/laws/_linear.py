"""Exact linear algebra over the rationals."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def solve_consistent(rows: Sequence[Sequence[Fraction]], right: Sequence[Fraction]) -> list[Fraction] | None:
    """The unique c with rows @ c == right in every row, or None where there is none or more than one.

    Gauss-Jordan elimination row by row, so that an inconsistent system is left at its first
    contradicting row. Cost: O(len(rows) * columns**2) rational operations.
    """
    columns = len(rows[0]) if rows else 0
    pivots: dict[int, list[Fraction]] = {}
    for row, value in zip(rows, right, strict=True):
        current = [*row, value]
        for column, pivot in pivots.items():
            if current[column]:
                factor = current[column]
                current = [a - factor * b for a, b in zip(current, pivot, strict=True)]
        lead = next((j for j in range(columns) if current[j]), None)
        if lead is None:
            if current[columns]:
                return None
            continue
        scale = current[lead]
        current = [a / scale for a in current]
        for column, pivot in pivots.items():
            if pivot[lead]:
                factor = pivot[lead]
                pivots[column] = [a - factor * b for a, b in zip(pivot, current, strict=True)]
        pivots[lead] = current
    if len(pivots) < columns:
        return None
    return [pivots[j][columns] for j in range(columns)]

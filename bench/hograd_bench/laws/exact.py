"""Exact laws: the polynomial with rational coefficients that goes through every measured size.

Bytes and counts are whole numbers that a program determines, so that a law of growth is not fitted but
solved for: p coefficients from p sizes, and every further size must be hit with zero residual. The least
number of coefficients that does so is the law. Small sizes may differ (other kernels, other maximum), hence
the law states the sizes from which it holds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hograd_bench.laws._linear import solve_consistent
from hograd_bench.laws._outcomes import InsufficientData, NoExactLaw
from hograd_bench.laws.polynomial import SYMBOLS, Exponents, Polynomial, evaluate

Sizes = tuple[int, ...]
HELD_OUT = 2
MAX_DROPPED = 3  # values of one variable that may lie below the law's range
# Above this a float no longer holds every whole number, and a frame's column is float.
EXACT_FLOAT = 2**53


@dataclass(frozen=True)
class ExactLaw:
    """A metric as a polynomial in the sizes, hit by every measured size in its range.

    Attributes:
        metric: name of the metric.
        polynomial: the law, in the metric's unit.
        unit: bytes of an element that the formula factors out (1: none).
        start: variable -> the size from which the law holds.
        step: variable -> the greatest common divisor of the sizes seen: other residues were never tested.
        fixed: sizes that did not vary in the data; the law speaks for these values only.
        sizes: the sizes it was solved and checked on.
        held_out: how many of them were not needed to solve for the coefficients.
        excluded: measured sizes below the range.
    """

    metric: str
    polynomial: Polynomial
    unit: int
    start: Mapping[str, int]
    step: Mapping[str, int]
    fixed: Mapping[str, int]
    sizes: tuple[Sizes, ...]
    held_out: int
    excluded: tuple[Sizes, ...] = field(default=())

    @property
    def formula(self) -> str:
        """Text such as ``peak_bytes = 4·n·(8·T − 3)``."""
        return f"{self.metric} = {self.polynomial.formula(self.unit)}"

    @property
    def text(self) -> str:
        """Formula, range and evidence in one line."""
        bounds = ", ".join(f"{SYMBOLS.get(v, v)} ≥ {s}" for v, s in self.start.items())
        lattice = [f"{SYMBOLS.get(v, v)} a multiple of {s}" for v, s in self.step.items() if s > 1]
        tested = f" (tested on {' and '.join(lattice)})" if lattice else ""
        at = ", ".join(f"{SYMBOLS.get(v, v)} = {s}" for v, s in self.fixed.items() if s != 1)
        where = " for " + bounds if bounds else ""
        return f"{self.formula}{where}{tested}{' at ' + at if at else ''}; {self.held_out} held-out sizes hit exactly"

    def degree(self, variable: str) -> int:
        """Exponent of a variable in the leading growth; 0 where the metric does not depend on it."""
        return self.polynomial.degree(variable)

    def holds_at(self, sizes: Mapping[str, int]) -> bool:
        """Whether those sizes lie in the range of which the law speaks."""
        return all(sizes.get(v, s) >= s for v, s in self.start.items()) and all(
            sizes.get(v, s) == s for v, s in self.fixed.items()
        )

    def predict(self, sizes: Mapping[str, int]) -> int:
        """The metric at those sizes, exactly.

        Raises:
            ValueError: a size is missing or outside the range of the law, or the value is no whole
                number there (the law was seen on other residues only).
        """
        if not self.holds_at(sizes):
            wanted = [f"{v} >= {s}" for v, s in self.start.items()] + [f"{v} == {s}" for v, s in self.fixed.items()]
            raise ValueError(f"sizes: got {dict(sizes)}, expected {', '.join(wanted)}; the law is silent elsewhere")
        value = self.polynomial(sizes)
        if value.denominator != 1:
            raise ValueError(
                f"sizes: got {dict(sizes)}, where the law gives {value}, no whole number; "
                f"it was seen on multiples of {dict(self.step)}"
            )
        return int(value)


def fit_exact(
    points: Mapping[Sizes, int | float | Fraction],
    variables: Sequence[str],
    *,
    metric: str = "y",
    unit: int = 1,
    max_degree: int = 3,
    held_out: int = HELD_OUT,
) -> ExactLaw | NoExactLaw | InsufficientData:
    """The polynomial of fewest coefficients that goes through every point at the large sizes.

    Ranges are tried from the widest (all points) to narrower ones (up to three of the smallest values of
    each variable left out), and within a range the bases from fewest to most monomials. A basis is
    eligible if the points determine it and leave at least ``held_out`` of them over.

    Args:
        points: sizes (one per variable) -> value; whole numbers.
        variables: names of the sizes.
        metric: name for the formula.
        unit: bytes of an element, factored out in the formula only.
        max_degree: largest exponent of one variable.
        held_out: least number of points beyond the coefficients.

    Returns:
        The law; NoExactLaw if every degree up to ``max_degree`` is contradicted; InsufficientData if the
        points cannot contradict one.

    Raises:
        ValueError: a point has not one size per variable, or a size below 1.
    """
    for sizes in points:
        if len(sizes) != len(variables) or min(sizes, default=1) < 1:
            raise ValueError(
                f"points: got sizes {sizes}, expected {len(variables)} sizes >= 1 ({', '.join(variables)})"
            )
    exact: dict[Sizes, Fraction] = {}
    for sizes, value in sorted(points.items()):
        if not math.isfinite(value) or Fraction(value).denominator != 1:
            return NoExactLaw(f"{metric} = {value} at {_at(variables, sizes)} is no whole number", 0)
        if isinstance(value, float) and abs(value) > EXACT_FLOAT:
            return NoExactLaw(f"{metric} = {value:g} at {_at(variables, sizes)} is too large to be exact in a float", 0)
        exact[sizes] = Fraction(value)
    varying = [i for i in range(len(variables)) if len({s[i] for s in exact}) > 1]
    if len(exact) < held_out + 1 or not varying:
        return InsufficientData(f"{len(exact)} sizes", f"at least {held_out + 1} different sizes")
    names = tuple(variables[i] for i in varying)
    fixed = {v: next(iter(exact))[i] for i, v in enumerate(variables) if i not in varying}
    reduced = {tuple(s[i] for i in varying): y for s, y in exact.items()}

    for bounds in _ranges(list(reduced)):
        kept = {s: y for s, y in reduced.items() if all(a >= b for a, b in zip(s, bounds, strict=True))}
        found = _solve(kept, max_degree, held_out)
        if found is not None:
            terms, count = found
            # A size whose other values were all left out no longer varies: the law is silent about it.
            single = {v: next(iter(kept))[i] for i, v in enumerate(names) if len({s[i] for s in kept}) == 1}
            return ExactLaw(
                metric,
                Polynomial(names, terms),
                unit,
                {v: min(s[i] for s in kept) for i, v in enumerate(names) if v not in single},
                {v: math.gcd(*(s[i] for s in kept)) for i, v in enumerate(names) if v not in single},
                {**fixed, **single},
                tuple(sorted(kept)),
                len(kept) - count,
                tuple(sorted(set(reduced) - set(kept))),
            )
    return _why_not(reduced, names, metric, max_degree, held_out)


def _ranges(sizes: Sequence[Sizes]) -> Iterator[Sizes]:
    """Lower bounds of the ranges to try, those that exclude fewest points first."""
    axes = [sorted({s[i] for s in sizes}) for i in range(len(sizes[0]))]
    choices = itertools.product(*(axis[: min(MAX_DROPPED + 1, max(1, len(axis) - HELD_OUT))] for axis in axes))

    def excluded(bounds: Sizes) -> int:
        return sum(any(a < b for a, b in zip(s, bounds, strict=True)) for s in sizes)

    return iter(sorted(choices, key=lambda b: (excluded(b), b)))


def _solve(
    points: Mapping[Sizes, Fraction], max_degree: int, held_out: int
) -> tuple[dict[Exponents, Fraction], int] | None:
    """The first basis that goes through all points: its non-zero terms, and its number of coefficients."""
    sizes = list(points)
    y = np.array([float(v) for v in points.values()])
    x = np.array(sizes, dtype=float)
    for basis in _bases(sizes, max_degree, len(points) - held_out):
        if not _plausible(x, y, basis):
            continue
        rows = [[evaluate(e, [Fraction(a) for a in s]) for e in basis] for s in sizes]
        solution = solve_consistent(rows, list(points.values()))
        if solution is not None:
            return {e: c for e, c in zip(basis, solution, strict=True) if c}, len(basis)
    return None


def _bases(sizes: Sequence[Sizes], max_degree: int, most: int) -> list[tuple[Exponents, ...]]:
    """Sets of monomials {|e| <= total, e_i <= cap_i}, fewest first, that the points may determine and check."""
    width = len(sizes[0])
    # One more value of a variable than its degree needs: the growth along it is itself held out.
    caps = [min(max_degree, len({s[i] for s in sizes}) - 2) for i in range(width)]
    found: dict[tuple[Exponents, ...], None] = {}
    for cap in itertools.product(*(range(max(c, 0) + 1) for c in caps)):
        for total in range(max(cap), sum(cap) + 1):
            basis = tuple(e for e in itertools.product(*(range(c + 1) for c in cap)) if sum(e) <= total)
            if len(basis) <= most:
                found[basis] = None
    return sorted(found, key=lambda b: (len(b), max(sum(e) for e in b), b))


def _plausible(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], basis: Sequence[Exponents]) -> bool:
    """Whether floating point sees a fit: a fast filter before the exact solution, wide enough to lose none."""
    scaled = x / x.max(axis=0)
    columns = np.stack([np.prod(scaled ** np.array(e), axis=1) for e in basis], axis=1)
    solution, _, rank, _ = np.linalg.lstsq(columns, y, rcond=None)
    residual = np.abs(columns @ solution - y).max()
    return int(rank) == len(basis) and bool(residual <= 1e-6 * max(1.0, np.abs(y).max()))


def _why_not(
    points: Mapping[Sizes, Fraction], names: tuple[str, ...], metric: str, max_degree: int, held_out: int
) -> NoExactLaw | InsufficientData:
    """No basis fits: either all degrees up to the largest are contradicted, or points lack to test them."""
    for line, axis in _lines(list(points)):
        one: dict[Sizes, Fraction] = {(s[axis],): points[s] for s in line}
        if len(one) < max_degree + 2 or any(_within(one, b, max_degree, held_out) for b in _ranges(list(one))):
            continue
        degree = min(max_degree, len(line) - 2)
        rows = [[Fraction(s[axis]) ** e for e in range(degree + 1)] for s in line[: degree + 1]]
        solution = solve_consistent(rows, [points[s] for s in line[: degree + 1]]) or []
        worst = max(line, key=lambda s: abs(points[s] - _value(solution, s[axis])))
        miss = float(points[worst] - _value(solution, worst[axis]))
        return NoExactLaw(
            f"the degree-{degree} polynomial in {SYMBOLS.get(names[axis], names[axis])} through the smallest sizes "
            f"misses {metric} = {int(points[worst])} at {_at(names, worst)} by {miss:g}",
            max_degree,
        )
    lacking = []
    for i, name in enumerate(names):
        distinct = len({s[i] for s in points})
        if distinct < max_degree + 2:
            lacking.append(f"{max_degree + 2} values of {name} (there are {distinct})")
    if lacking:
        bases = _bases(list(points), max_degree, len(points) - held_out)
        tried = max((max(e) for basis in bases for e in basis), default=0)
        return InsufficientData(
            f"{len(points)} sizes, through which no polynomial of degree {tried} goes", " and ".join(lacking)
        )
    return NoExactLaw(f"no polynomial of degree {max_degree} in {', '.join(names)} jointly", max_degree)


def _within(points: Mapping[Sizes, Fraction], bounds: Sizes, max_degree: int, held_out: int) -> bool:
    kept = {s: y for s, y in points.items() if all(a >= b for a, b in zip(s, bounds, strict=True))}
    return len(kept) > held_out and _solve(kept, max_degree, held_out) is not None


def _value(coefficients: Sequence[Fraction], x: int) -> Fraction:
    return sum((c * Fraction(x) ** e for e, c in enumerate(coefficients)), Fraction(0))


def _lines(sizes: Sequence[Sizes]) -> list[tuple[list[Sizes], int]]:
    """The points along each variable with the others held, longest line first."""
    lines: dict[tuple[int, Sizes], list[Sizes]] = {}
    for s in sizes:
        for i in range(len(s)):
            lines.setdefault((i, s[:i] + s[i + 1 :]), []).append(s)
    ordered = sorted(lines.items(), key=lambda item: (-len(item[1]), item[0]))
    return [(sorted(line), axis) for (axis, _), line in ordered]


def _at(names: Sequence[str], sizes: Sizes) -> str:
    return ", ".join(f"{SYMBOLS.get(v, v)}={s}" for v, s in zip(names, sizes, strict=True))

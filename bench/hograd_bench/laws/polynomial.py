"""Polynomials in the sizes with rational coefficients, and how they are printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

Exponents = tuple[int, ...]
# How a size is written in a formula.
SYMBOLS = {"depth": "T", "order": "k", "batch": "B"}


@dataclass(frozen=True)
class Polynomial:
    """sum of coefficient * product of variable**exponent, exactly.

    Attributes:
        variables: names of the sizes, in the order of the exponents.
        terms: exponents -> coefficient; zero coefficients are left out.
    """

    variables: tuple[str, ...]
    terms: Mapping[Exponents, Fraction]

    def __call__(self, sizes: Mapping[str, int]) -> Fraction:
        """Value at those sizes.

        Raises:
            ValueError: a variable's size is not given.
        """
        absent = [name for name in self.variables if name not in sizes]
        if absent:
            raise ValueError(f"sizes: got {dict(sizes)}, expected a value for {', '.join(absent)}")
        point = [Fraction(sizes[name]) for name in self.variables]
        return sum((c * evaluate(e, point) for e, c in self.terms.items()), Fraction(0))

    def degree(self, variable: str | None = None) -> int:
        """Largest exponent of a variable (0 where it does not occur), or the total degree."""
        if variable is None:
            return max((sum(e) for e in self.terms), default=0)
        if variable not in self.variables:
            return 0
        i = self.variables.index(variable)
        return max((e[i] for e in self.terms), default=0)

    def coefficient(self, variable: str, power: int) -> Polynomial:
        """What multiplies variable**power: a polynomial in the other variables."""
        if variable not in self.variables:
            return self if power == 0 else Polynomial(self.variables, {})
        i = self.variables.index(variable)
        rest = self.variables[:i] + self.variables[i + 1 :]
        return Polynomial(rest, {e[:i] + e[i + 1 :]: c for e, c in self.terms.items() if e[i] == power})

    def scaled(self, factor: Fraction) -> Polynomial:
        """The polynomial times a number."""
        return Polynomial(self.variables, {e: c * factor for e, c in self.terms.items()})

    def formula(self, unit: int = 1) -> str:
        """Text such as ``4·n·(8·T − 3) + 2``: ``unit`` (bytes of an element) and common factors pulled out.

        A constant that is no whole number of units stays outside the bracket.
        """
        constant = (0,) * len(self.variables)
        inside = dict(self.terms)
        outside = Fraction(0)
        if unit > 1 and (inside.get(constant, Fraction(0)) / unit).denominator != 1 and len(inside) > 1:
            outside = inside.pop(constant)
        body = _factored(self.variables, inside, unit)
        return _join([body] if outside == 0 else [body, _number(outside)])


def evaluate(exponents: Exponents, point: Sequence[Fraction]) -> Fraction:
    """The monomial's value."""
    value = Fraction(1)
    for exponent, x in zip(exponents, point, strict=True):
        value *= x**exponent
    return value


def _factored(variables: tuple[str, ...], terms: Mapping[Exponents, Fraction], unit: int) -> str:
    if not terms:
        return "0"
    content = _content(list(terms.values()))
    lead = terms[max(terms, key=lambda e: (sum(e), e))]
    content = -content if lead < 0 else content
    common = tuple(min(e[i] for e in terms) for i in range(len(variables)))
    rest = {tuple(a - b for a, b in zip(e, common, strict=True)): c / content for e, c in terms.items()}
    # The element size is shown as a factor of its own wherever it divides what is common.
    numbers: list[str] = []
    if unit > 1 and (content / unit).denominator == 1:
        numbers.append(str(unit))
        content /= unit
    if content != 1 or (not numbers and not any(common) and len(rest) == 1):
        numbers.append(_number(content))
    factors = [_power(v, p) for v, p in zip(variables, common, strict=True) if p]
    if numbers == ["−1"] and factors:
        factors[0] = "−" + factors[0]
        numbers = []
    factors = numbers + factors
    if len(rest) > 1:
        inner = _collected(variables, rest)
        factors.append(f"({inner})" if factors else inner)
    return "·".join(factors) if factors else "1"


def _collected(variables: tuple[str, ...], terms: Mapping[Exponents, Fraction]) -> str:
    """Terms ordered by powers of the first variable that occurs, its coefficients bracketed."""
    axis = next((i for i in range(len(variables)) if any(e[i] for e in terms)), None)
    others = axis is not None and any(any(e[:axis] + e[axis + 1 :]) for e in terms)
    if axis is None or not others:
        ordered = sorted(terms, key=lambda e: (sum(e), e), reverse=True)
        return _join([_monomial(variables, e, terms[e]) for e in ordered])
    parts = []
    for power in sorted({e[axis] for e in terms}, reverse=True):
        group = {e: c for e, c in terms.items() if e[axis] == power}
        parts.append(_factored(variables, group, 1) if power else _collected(variables, group))
    return _join(parts)


def _monomial(variables: tuple[str, ...], exponents: Exponents, coefficient: Fraction) -> str:
    factors = [_power(v, p) for v, p in zip(variables, exponents, strict=True) if p]
    if not factors:
        return _number(coefficient)
    if coefficient == 1:
        return "·".join(factors)
    if coefficient == -1:
        return "−" + "·".join(factors)
    return "·".join([_number(coefficient), *factors])


def _power(variable: str, power: int) -> str:
    symbol = SYMBOLS.get(variable, variable)
    return symbol if power == 1 else symbol + str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _number(value: Fraction) -> str:
    text = str(abs(value.numerator)) if value.denominator == 1 else f"{abs(value.numerator)}/{value.denominator}"
    return f"−{text}" if value < 0 else text


def _join(parts: Sequence[str]) -> str:
    text = parts[0]
    for part in parts[1:]:
        text += f" − {part[1:]}" if part.startswith("−") else f" + {part}"
    return text


def _content(coefficients: Sequence[Fraction]) -> Fraction:
    """The largest rational of which every coefficient is a whole multiple."""
    numerator = math.gcd(*(abs(c.numerator) for c in coefficients))
    return Fraction(numerator, math.lcm(*(c.denominator for c in coefficients)))

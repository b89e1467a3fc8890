"""What a mark says, read and checked. Pure; no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hograd_bench import units

FIGURES = {"peak": "peak_bytes", "leaks": "retained_bytes", "ops": "aten_calls"}
"""Argument of a mark -> the metric that it limits."""

_GROWTH = re.compile(
    r"O\(\s*(?:(?P<one>1)|(?P<name>[^\W\d]\w*)\s*(?:(?:\^|\*\*)\s*(?P<power>\d+)|(?P<sign>[²³⁴]))?)\s*\)"
)
_SIGNS = {"²": 2, "³": 3, "⁴": 4}


class MarkError(ValueError):
    """A mark that cannot be meant."""


@dataclass(frozen=True)
class Limits:
    """What ``@pytest.mark.hograd`` allows; None: no limit.

    Attributes:
        peak: most bytes alive at once in blocks that the call took, its result included.
        leaks: most bytes alive after the result was deleted and garbage collected.
        ops: dispatched operators, in those of one gradient.
        time_gradients: time, in times of one gradient; checked under ``--hograd-time``.
    """

    peak: int | None = None
    leaks: int | None = None
    ops: float | None = None
    time_gradients: float | None = None

    @classmethod
    def read(cls, given: Mapping[str, Any], positional: tuple[Any, ...] = ()) -> Limits:
        """The limits that a mark's arguments name.

        Raises:
            MarkError: an argument that is unknown or no limit; the message names it.
        """
        readers: dict[str, Callable[[str, Any], Any]] = {
            "peak": _bytes, "leaks": _bytes, "ops": _factor, "time_gradients": _factor,
        }  # fmt: skip
        _only("hograd", given, positional, tuple(readers))
        return cls(**{name: readers[name](name, value) for name, value in given.items()})

    @property
    def of_a_gradient(self) -> bool:
        """Whether a gradient is needed as the unit."""
        return self.ops is not None or self.time_gradients is not None


@dataclass(frozen=True)
class Growth:
    """What ``@pytest.mark.hograd_growth`` allows.

    Attributes:
        over: the parameter that is the size.
        powers: argument -> largest exponent of the size.
    """

    over: str
    powers: Mapping[str, int]

    @classmethod
    def read(cls, given: Mapping[str, Any], positional: tuple[Any, ...] = ()) -> Growth:
        """The growth that a mark's arguments name.

        Raises:
            MarkError: no size, no growth, or one that is not O(1), O(n), O(n^2), ...; the message names it.
        """
        _only("hograd_growth", given, positional, ("over", *FIGURES))
        over = given.get("over")
        if not isinstance(over, str) or not over.isidentifier():
            raise MarkError(f'hograd_growth: over: got {over!r}, expected the name of a parameter, e.g. over="n"')
        powers = {name: _power(name, value, over) for name, value in given.items() if name != "over"}
        if not powers:
            raise MarkError(
                f'hograd_growth: nothing is limited; give some of {", ".join(FIGURES)}, e.g. peak="O({over})"'
            )
        return cls(over, powers)


def _only(mark: str, given: Mapping[str, Any], positional: tuple[Any, ...], known: tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known))
    if positional or unknown:
        got = repr(positional[0]) if positional else repr(unknown[0])
        raise MarkError(f"{mark}: got {got}, expected keywords, some of {', '.join(known)}")


def _bytes(name: str, value: Any) -> int:
    try:
        return units.to_bytes(value)
    except (TypeError, ValueError) as error:
        raise MarkError(f"hograd: {name}: {error}") from None


def _factor(name: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise MarkError(f"hograd: {name}: got {value!r}, expected a number > 0, in gradients")
    return float(value)


def _power(name: str, value: Any, over: str) -> int:
    found = _GROWTH.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or found["name"] not in (None, over):
        raise MarkError(f'hograd_growth: {name}: got {value!r}, expected "O(1)", "O({over})", "O({over}^2)", ...')
    if found["one"]:
        return 0
    return _SIGNS[found["sign"]] if found["sign"] else int(found["power"] or 1)

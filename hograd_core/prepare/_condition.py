"""What is looked at before every call, as one expression of Python: a part of it costs some tens of nanoseconds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType
from typing import Any


class Condition:
    """Parts that have to hold, all of them, of objects that have names within them."""

    __slots__ = ("_names", "_parts")

    def __init__(self) -> None:
        self._names: dict[str, Any] = {}
        self._parts: list[str] = []

    def name(self, value: Any) -> str:
        """A name for an object."""
        made = f"_{len(self._names)}"
        self._names[made] = value
        return made

    def literal(self, value: Any) -> str:
        """What an object is called by in code: a name, or itself where there is but one of its kind."""
        return repr(value) if value is None or value is True or value is False else self.name(value)

    def require(self, part: str) -> None:
        """Add a part: source of an expression."""
        self._parts.append(part)

    def made(self, arguments: str = "") -> Callable[..., bool]:
        """A function of these arguments (source) that says whether all parts hold, in their order."""
        found: Callable[..., bool] = eval(_code(arguments, tuple(self._parts)), self._names)
        return found


@functools.lru_cache(maxsize=256)
def _code(arguments: str, parts: tuple[str, ...]) -> CodeType:
    return compile(f"lambda {arguments}: {' and '.join(parts) or True}", "<condition>", "eval")

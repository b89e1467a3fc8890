"""A few rows as plain columns. Rules cut hundreds of groups of a dozen rows each, where a frame's overhead is all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

Place = tuple[Any, ...]


class Rows:
    """Columns of equal length, by name; never changed."""

    __slots__ = ("_columns", "_size")

    def __init__(self, columns: Mapping[str, list[Any]], size: int) -> None:
        self._columns, self._size = columns, size

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Rows:
        """The rows of a frame."""
        return cls({str(c): frame[c].to_list() for c in frame.columns}, len(frame))

    def __len__(self) -> int:
        return self._size

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> list[Any]:
        return self._columns[name]

    def take(self, places: Sequence[int]) -> Rows:
        """The rows at these places, in this order."""
        if len(places) == self._size and list(places) == list(range(self._size)):
            return self
        return Rows({name: [column[i] for i in places] for name, column in self._columns.items()}, len(places))

    def where(self, keep: Iterable[bool]) -> Rows:
        """The rows whose place in ``keep`` is true."""
        return self.take([i for i, kept in enumerate(keep) if kept])

    def distinct(self, name: str) -> list[Any]:
        """The values of a column, each once, in the order in which they are met."""
        return list(dict.fromkeys(self._columns[name]))

    def tuples(self, names: Sequence[str]) -> Iterator[Place]:
        """The values of several columns, row by row."""
        return zip(*(self._columns[name] for name in names), strict=True) if names else iter([()] * self._size)

    def split(self, names: Sequence[str]) -> Iterator[tuple[Place, Rows]]:
        """The rows that share values in these columns, by ascending values."""
        places: dict[Place, list[int]] = {}
        for i, key in enumerate(self.tuples(names)):
            places.setdefault(key, []).append(i)
        for key in sorted(places, key=lambda k: [(is_void(v), 0 if is_void(v) else v) for v in k]):
            yield key, self.take(places[key])


def is_void(value: Any) -> bool:
    """Whether there is no value: None or NaN."""
    return value is None or value != value


def number(value: Any) -> float:
    """A value as a float, NaN where it is none, or not finite."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return math.nan
    return found if math.isfinite(found) else math.nan

"""Rows to a DataFrame, column by column, so that 100,000 rows fit in memory and take seconds."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hograd_bench.schema import CELL_FIELDS, Row, SchemaError, parse_json


class Details(Mapping[str, Any]):
    """The details of one row, read from its file when first looked into.

    Reading raises :class:`SchemaError` with file and line where they are damaged, and OSError where the file is gone.
    """

    __slots__ = ("_length", "_offset", "file", "line")

    def __init__(self, file: Path, line: int, offset: int, length: int) -> None:
        self.file, self.line = file, line
        self._offset, self._length = offset, length

    def _read(self) -> dict[str, Any]:
        return _details(self.file, self.line, self._offset, self._length)

    def __getitem__(self, key: str) -> Any:
        return self._read()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __reduce__(self) -> tuple[Any, ...]:
        return Details, (self.file, self.line, self._offset, self._length)

    def __repr__(self) -> str:
        return f"<details at {self.file}:{self.line}>"


@functools.lru_cache(maxsize=512)  # bounded: a report walks over all details, and holds none of them
def _details(file: Path, line: int, offset: int, length: int) -> dict[str, Any]:
    with open(file, "rb") as opened:
        opened.seek(offset)
        raw = opened.read(length)
    try:
        found = parse_json(raw)
    except SchemaError as error:
        raise SchemaError(f"{file}:{line}: details: {error}") from None
    if not isinstance(found, dict):
        raise SchemaError(f"{file}:{line}: details: expected an object")
    return found


class _Block:
    """Consecutive rows with the same metrics: numbers as one matrix, texts aside."""

    def __init__(self, names: tuple[str, ...], indices: list[int], values: list[list[Any]]) -> None:
        self.names, self.indices = names, indices
        self.texts: list[tuple[int, str, str]] = []  # index, name, text
        for index, row in zip(indices, values, strict=True):
            for place, value in enumerate(row):
                if type(value) is str:
                    self.texts.append((index, names[place], value))
                    row[place] = None
        self.numbers = np.array(values, dtype=np.float64)  # None becomes NaN, True 1.0

    def moved(self, by: int) -> _Block:
        """The same with all indices higher."""
        self.indices = [index + by for index in self.indices] if by else self.indices
        self.texts = [(index + by, name, text) for index, name, text in self.texts] if by else self.texts
        return self


def metric_columns(rows: pd.DataFrame) -> list[str]:
    """Names of the columns that hold metrics, in the frame's order; columns that somebody added count as such."""
    fixed = {*Builder._FIXED, "missing", "details"}
    return [str(name) for name in rows.columns if name not in fixed]


class Builder:
    """Takes rows run by run, then builds the frame."""

    _FIXED = ("cell", *CELL_FIELDS, "numel", "status", "reason", "run", "machine", "started", "wall_seconds", "line")
    _INTEGERS = ("n", "order", "depth", "batch", "threads", "line")
    _NUMBERS = ("numel", "wall_seconds")
    _OBJECTS = ("reason", "started", "missing", "details")
    _OF_ROW = tuple(name for name in _FIXED if name not in ("run", "machine", "line"))
    _FLUSH = 4096
    """Rows whose metrics wait as Python objects, four times as large as in a block."""

    def __init__(self, *, details: bool) -> None:
        self._of_row: list[tuple[Any, ...]] = []
        self._placed: list[tuple[str, str, int]] = []  # run, machine, line
        self._reasons: list[dict[str, str]] = []
        self._details: list[Mapping[str, Any]] | None = [] if details else None
        self._waiting: dict[tuple[str, ...], tuple[list[int], list[list[Any]]]] = {}
        self._blocks: list[_Block] = []
        self._place: dict[str, int] = {}  # cell -> its index, within the current run
        self._replaced: list[int] = []
        self._machine = self._run = ""
        self._same: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}

    def start_run(self, machine: str, run: str) -> None:
        """Rows added from now on are of this run."""
        self._machine, self._run, self._place = machine, run, {}

    def add(self, row: Row, line: int) -> None:
        """Add a row; an earlier one of the same cell in this run gives way."""
        index, cell = len(self._of_row), row["cell"]
        if cell in self._place:
            self._replaced.append(self._place[cell])
        self._place[cell] = index
        self._of_row.append(_of_row(row))
        self._placed.append((self._run, self._machine, line))
        missing = row["missing"]  # equal ones are held once: they are the bulk of a large frame
        self._reasons.append(self._same.setdefault(tuple(missing.items()), missing))
        if self._details is not None:
            self._details.append(row["details"])
        metrics = row["metrics"]
        indices, values = self._waiting.setdefault(tuple(metrics), ([], []))
        indices.append(index)
        values.append(list(metrics.values()))
        if index % self._FLUSH == 0:
            self._flush()

    def absorb(self, other: Builder) -> None:
        """Add what another has taken, which was closed."""
        start = len(self._of_row)
        self._of_row += other._of_row
        self._placed += other._placed
        self._reasons += [self._same.setdefault(tuple(r.items()), r) for r in other._reasons]
        if self._details is not None:
            self._details += other._details or []
        for block in other._blocks:
            self._blocks.append(block.moved(start))
        self._replaced += [start + index for index in other._replaced]

    def close(self) -> None:
        """Take no more rows, and hold only what another needs of them."""
        self._flush()
        self._place, self._same = {}, {}

    def _flush(self) -> None:
        self._blocks += [_Block(names, *block) for names, block in self._waiting.items()]
        self._waiting = {}

    def build(self) -> pd.DataFrame:
        """The frame: fixed columns, metrics in alphabetical order, ``missing``, ``details``."""
        self._flush()
        size = len(self._of_row)
        plain: dict[str, Any] = dict(zip(self._OF_ROW, zip(*self._of_row, strict=True), strict=False))
        plain.update(zip(("run", "machine", "line"), zip(*self._placed, strict=True), strict=False))
        columns: dict[str, Any] = {name: self._column(name, plain.get(name, ())) for name in self._FIXED}
        columns.update(self._metrics(size))
        columns["missing"] = self._column("missing", self._reasons)
        if self._details is not None:
            columns["details"] = self._column("details", self._details)
        frame: pd.DataFrame = pd.DataFrame(columns)
        if self._replaced:
            frame = frame.drop(index=self._replaced).reset_index(drop=True)
        return frame

    def _metrics(self, size: int) -> dict[str, Any]:
        built = {name: np.full(size, np.nan) for name in sorted({name for b in self._blocks for name in b.names})}
        for block in self._blocks:
            for place, name in enumerate(block.names):
                built[name][block.indices] = block.numbers[:, place]
        for index, name, text in (found for block in self._blocks for found in block.texts):
            if built[name].dtype != object:
                built[name] = built[name].astype(object)
            built[name][index] = text
        return {name: pd.Series(column, dtype=column.dtype) for name, column in built.items()}

    def _column(self, name: str, values: Sequence[Any]) -> Any:
        if name in self._OBJECTS:
            column = np.empty(len(values), dtype=object)
            for index, value in enumerate(values):  # `column[:] = values` would look into mappings, and read them all
                column[index] = value
            return pd.Series(column, dtype=object)  # said outright: None stays None
        if name in self._NUMBERS:
            return np.array(values, dtype=np.float64)
        if name in self._INTEGERS:
            return np.array(values, dtype=np.int64)
        return pd.Series(values, dtype="str")


_of_row = operator.itemgetter(*Builder._OF_ROW)


def newest(rows: pd.DataFrame, among: np.ndarray[Any, Any] | None = None) -> pd.DataFrame:
    """The latest row of every cell of each machine: what a report or a law speaks about.

    Args:
        rows: rows of any runs.
        among: mask of the rows that count; None: all.
    """
    # Of a hundred thousand rows few are taken: only what decides is sorted.
    keys = rows[["run", "line", "machine", "cell"]].reset_index(drop=True)
    ordered = (keys if among is None else keys[among]).sort_values(["run", "line"], kind="stable")
    last = ordered.drop_duplicates(["machine", "cell"], keep="last").index
    latest: pd.DataFrame = rows.iloc[last].reset_index(drop=True)
    return latest

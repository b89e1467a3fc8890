"""Rows to a frame: fixed columns, metrics in alphabetical order, ``missing``, ``details``."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hograd_bench.schema import CELL_FIELDS, Row, SchemaError, parse_json, validate

_FIXED = ("cell", *CELL_FIELDS, "numel", "status", "reason", "run", "machine", "started", "wall_seconds", "line")
_INTEGERS = ("n", "order", "depth", "batch", "threads")
_NUMBERS = ("numel", "wall_seconds")
OBJECTS = ("reason", "started", "missing", "details")
"""Columns of objects, in which None stays None."""


@dataclass(frozen=True, eq=False, slots=True)
class Details(Mapping[str, Any]):
    """The details of the row at a place of a file, read when first looked into.

    Reading raises :class:`SchemaError` with file and line where they are damaged, and OSError where the file is gone.
    """

    file: Path
    line: int
    offset: int
    length: int

    def __getitem__(self, key: str) -> Any:
        return _details(self.file, self.line, self.offset, self.length)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(_details(self.file, self.line, self.offset, self.length))

    def __len__(self) -> int:
        return len(_details(self.file, self.line, self.offset, self.length))


@functools.lru_cache(maxsize=512)  # bounded: a report walks over all details, and holds none of them
def _details(file: Path, line: int, offset: int, length: int) -> dict[str, Any]:
    with open(file, "rb") as opened:
        opened.seek(offset)
        raw = opened.read(length)
    try:
        found: dict[str, Any] = validate(parse_json(raw))["details"]
    except SchemaError as error:
        raise SchemaError(f"{file}:{line}: details: {error}") from None
    return found


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose texts and names of columns are plain objects: many small selections are several times faster."""
    texts = {name: object for name in frame.columns if isinstance(frame[name].dtype, pd.StringDtype)}
    return frame.astype(texts).set_axis(frame.columns.astype(object), axis=1)


def frame_of(lines: Sequence[tuple[int, Row]]) -> pd.DataFrame:
    """The rows of one run, each with its line, without its machine; of several rows of a cell, the last."""
    rows = [row for _, row in lines]
    fixed = [name for name in _FIXED if name not in ("machine", "line")]
    columns: dict[str, Any] = {name: _column(name, [row[name] for row in rows]) for name in fixed}
    columns["line"] = np.array([line for line, _ in lines], dtype=np.int64)
    for name in sorted({name for row in rows for name in row["metrics"]}):
        columns[name] = _metric([row["metrics"].get(name) for row in rows])
    same: dict[tuple[Any, ...], dict[str, str]] = {}  # equal reasons are held once: they are the bulk of a large frame
    columns["missing"] = _column("missing", [same.setdefault(tuple(r["missing"].items()), r["missing"]) for r in rows])
    columns["details"] = _column("details", [row["details"] for row in rows])
    frame: pd.DataFrame = pd.DataFrame(columns).drop_duplicates("cell", keep="last", ignore_index=True)
    return frame


def together(runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Frames of several runs as one."""
    frame: pd.DataFrame = pd.concat(runs or [frame_of([]).assign(machine="")], ignore_index=True)
    ordered: pd.DataFrame = frame[[*_FIXED, *sorted(metric_columns(frame)), "missing", "details"]]
    return ordered


def metric_columns(rows: pd.DataFrame) -> list[str]:
    """Names of the columns that hold metrics, in the frame's order; columns that somebody added count as such."""
    fixed = {*_FIXED, "missing", "details"}
    return [str(name) for name in rows.columns if name not in fixed]


def _metric(values: Sequence[Any]) -> Any:
    """None becomes NaN and True 1.0; an object where there is text."""
    numbers = np.array([None if type(value) is str else value for value in values], dtype=np.float64)
    if not any(type(value) is str for value in values):
        return numbers
    column = numbers.astype(object)
    for i, value in enumerate(values):
        column[i] = value if type(value) is str else column[i]
    return pd.Series(column, dtype=object)


def _column(name: str, values: Sequence[Any]) -> Any:
    if name in OBJECTS:
        column = np.empty(len(values), dtype=object)
        for index, value in enumerate(values):  # `column[:] = values` would look into mappings, and read them all
            column[index] = value
        return pd.Series(column, dtype=object)  # said outright: None stays None
    if name in _NUMBERS:
        return np.array(values, dtype=np.float64)
    if name in _INTEGERS:
        return np.array(values, dtype=np.int64)
    return pd.Series(values, dtype="str")


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

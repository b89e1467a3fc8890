"""Rows -> the series that rules look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hograd_bench import facts, metrics, store
from hograd_bench.cells import Cell
from hograd_bench.claims._model import Part
from hograd_bench.facts import operations_of as operations_of
from hograd_bench.laws import is_exact

SIZES = ("n", "depth", "batch", "order")
SERIES = ("operator", "method", "problem", "dtype", "device", "threads", "preparation", "machine")
# Relative standard deviation between processes of one measurement, where nothing was measured about it.
# Ratios to a gradient that was timed around the call in the same process drift less than times do.
NOISE = {"gradient_equivalents": 0.05}
TIME_NOISE = 0.10
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
CONTEXT = ("noisy", "gradient_seconds_before", "gradient_seconds_after")
"""What says how much a time is to be trusted."""
PLACE = ("problem", "dtype", "device", "threads", "preparation", "machine")
Operations = Callable[[str, int, int, int], "int | None"]
Place = tuple[Any, ...]


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


def tuples(rows: pd.DataFrame, names: Sequence[str]) -> list[Place]:
    """The values of several columns, row by row, as Python has them."""
    return list(zip(*(rows[name].to_list() for name in names), strict=True)) if names else [()] * len(rows)


def narrowed(part: Part, frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that a part may look at: selecting from a frame costs by the column, and rows have dozens."""
    metrics = {part.metric, part.parameters.get("over"), *CONTEXT}
    wanted = {"cell", "status", "started", "run", *Cell.__dataclass_fields__, *SERIES, *metrics}
    few: pd.DataFrame = frame[[c for c in frame.columns if c in wanted]].copy()  # copied: one block a dtype
    return few


def rows_of(part: Part, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the cells that a part needs, on whatever device and number of threads they were measured."""
    mask = pd.Series(False, index=frame.index)
    for table in part.cells:
        mask |= _matches(table, frame)
    chosen: pd.DataFrame = frame.loc[mask]
    return chosen


def _matches(table: Mapping[str, Any], frame: pd.DataFrame) -> pd.Series[bool]:
    mask: pd.Series[bool] = pd.Series(True, index=frame.index)
    defaults: dict[str, Any] = {"dtype": "float32", "preparation": "eager"}
    for column, key in (
        ("operator", "operator"),
        ("method", "methods"),
        ("problem", "problems"),
        ("n", "n"),
        ("depth", "depth"),
        ("batch", "batch"),
        ("order", "order"),
        ("dtype", "dtype"),
        ("preparation", "preparation"),
    ):
        wanted = table.get(key, defaults.get(key))
        if wanted is None or wanted in ("*", ["*"]):
            continue
        choices = wanted if isinstance(wanted, list) else [wanted]
        # A problem without a size has it at 1, whatever the table sweeps.
        if column in ("depth", "batch"):
            choices = [*choices, 1]
        if column == "operator":
            choices = [canonical(str(c)) for c in choices]
        mask &= frame[column].isin(choices)
    order = resolved(str(table["operator"]))[1]
    return mask if order is None else mask & (frame["order"] == order)


def resolved(operator: str) -> tuple[str, int | None]:
    """The operator's own name for an alias, and the order that the alias fixes; unknown names are left as they are."""
    try:
        return facts.resolve(operator)
    except ValueError:
        return operator, None


def canonical(operator: str) -> str:
    """The operator's own name for an alias."""
    return resolved(operator)[0]


def groups(rows: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Rows with the same values in ``by`` and in every column that must not be mixed, in a fixed order.

    The key holds what names the group: ``by``, and those other columns that take several values in ``rows``.
    """
    columns = [c for c in SERIES if c in rows and c not in by and not _contracted(c, by)]
    keys = [*(c for c in by if c in rows), *columns]
    naming = [*by, *(c for c in columns if len(set(rows[c].to_list())) > 1)]
    places: dict[Place, list[int]] = {}
    for i, key in enumerate(tuples(rows, keys)):
        places.setdefault(key, []).append(i)
    for key in sorted(places, key=lambda k: [(is_void(v), 0 if is_void(v) else v) for v in k]):
        named = dict(zip(keys, key, strict=True))
        yield {k: named[k] for k in naming if k in named}, rows.iloc[places[key]]


def _contracted(column: str, by: Sequence[str]) -> bool:
    """Methods and operators are pooled by rules that compare them."""
    return column in ("operator", "method") and "method" not in by


def where(rows: pd.DataFrame, keep: Iterable[bool]) -> pd.DataFrame:
    """The rows to keep; nearly always all, and then nothing is copied."""
    kept = list(keep)
    return rows if all(kept) else rows[kept]


def measured_rows(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows that came out ok and have the metric."""
    ok = ok_rows(rows)
    return where(ok, (not is_void(v) for v in ok[metric].to_list())) if metric in ok else ok.iloc[:0]


def ok_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that came out ok."""
    return where(rows, (status == "ok" for status in rows["status"].to_list()))


def line(rows: pd.DataFrame, variable: str, metric: str) -> pd.DataFrame:
    """The rows along one size, the other sizes held where most of its values were measured (ties: larger)."""
    measured = measured_rows(rows, metric)
    if not len(measured):
        return measured
    places = tuples(measured, [s for s in SIZES if s != variable and s in rows])
    best = widest(zip(places, measured[variable].to_list(), strict=True))
    return where(measured, (place == best for place in places))


def widest(met: Iterable[tuple[Place, Any]], default: Place = ()) -> Place:
    """The place at which most different values were met (ties: larger)."""
    values: dict[Place, set[Any]] = {}
    for place, value in met:
        values.setdefault(place, set()).add(value)
    return max(values, key=lambda place: (len(values[place]), *place), default=default)


def values_along(rows: pd.DataFrame, variable: str, metric: str) -> dict[int, list[float]]:
    """Size -> measurements; an exact metric has one, the latest."""
    found: dict[int, list[float]] = {}
    if metric not in rows:
        return found
    for status, value, size in tuples(rows, ["status", metric, variable]):
        if status == "ok" and not math.isnan(known := number(value)) and not math.isnan(number(size)):
            found.setdefault(int(size), []).append(known)
    return {x: seen[-1:] if is_exact(metric) else seen for x, seen in sorted(found.items())}


def noise_of(metric: str, rows: pd.DataFrame) -> float:
    """Relative standard deviation to reckon with, 0 for counted metrics.

    Doubled where rows are marked noisy, and never below what the gradient, timed before and after each row, shows
    of the machine's drift in that minute.
    """
    record = metrics.record(metric)
    if record is not None and record.deterministic:  # though no law goes through a deviation from truth exactly
        return 0.0
    noisy = "noisy" in rows and (rows["noisy"] == 1).any()  # 1, 1.0, True; not None or NaN
    drift = 0.0
    if all(c in rows for c in CONTEXT[1:]):
        pairs = [(number(before), number(after)) for before, after in tuples(rows, CONTEXT[1:])]
        steps = [math.log(after / before) ** 2 for before, after in pairs if before > 0 and after > 0]
        if steps:
            drift = float(np.sqrt(np.mean(steps) / 2))
    return max(NOISE.get(metric, TIME_NOISE) * (2 if noisy else 1), drift)


def latest(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of their runs, so that the last one of a cell is the latest."""
    order = [c for c in ("started", "run") if c in frame.columns]
    chosen = frame.sort_values(order, kind="stable") if order else frame
    return store.plain(chosen)


def cell_ids(rows: pd.DataFrame) -> tuple[str, ...]:
    """Ids of the cells of rows, each once."""
    if "cell" in rows:
        return tuple(dict.fromkeys(str(c) for c in rows["cell"]))
    given = [f for f in Cell.__dataclass_fields__ if f in rows]
    columns = zip(*(rows[f] for f in given), strict=True)
    return tuple(dict.fromkeys(Cell(**dict(zip(given, r, strict=True))).id for r in columns))


def cell_at(rows: pd.DataFrame, sizes: Sequence[str], place: Place) -> str:
    """Id of the cell of these sizes, "" where there is none."""
    at = next((i for i, found in enumerate(tuples(rows, sizes)) if found == place), None)
    if at is None:
        return ""
    return str(rows["cell"].iat[at]) if "cell" in rows else cell_ids(rows.iloc[[at]])[0]


class Baseline:
    """Rows of the baseline "operator/method", found by the problem, type and machine that they are compared on."""

    def __init__(self, frame: pd.DataFrame, name: str) -> None:
        operator, _, method = name.partition("/")
        mask = frame["operator"] == canonical(operator)
        if method:
            mask &= frame["method"] == method
        self._rows = latest(frame.loc[mask])
        self._place = [c for c in PLACE if c in self._rows]
        self._at: dict[Place, list[int]] = {}
        for i, place in enumerate(tuples(self._rows, self._place)):
            self._at.setdefault(place, []).append(i)
        self._values: dict[str, dict[Place, float]] = {}

    def like(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The baseline's rows on the problem, type, machine and sizes of rows of one group."""
        own: pd.DataFrame = self._rows.iloc[self._at.get(tuples(rows, self._place)[0], [])]
        for column in ("n", "depth", "batch"):
            wanted = set(rows[column].to_list())
            own = where(own, (value in wanted for value in own[column].to_list()))
        return own

    def values(self, metric: str, rows: pd.DataFrame) -> list[float]:
        """The latest value of a metric on the problem, sizes, type and machine of each row, NaN where there is none."""
        keys = [*self._place, "n", "depth", "batch"]
        if metric not in self._values:
            base = ok_rows(self._rows)
            found = zip(tuples(base, keys), base[metric], strict=True) if metric in base else ()
            self._values[metric] = dict(found)
        known = self._values[metric]
        return [known.get(key, math.nan) for key in tuples(rows, keys)]


def with_denominator(
    rows: pd.DataFrame, baseline: Callable[[str], Baseline], metric: str, over: str, operations: Operations
) -> list[float]:
    """What a metric is divided by, row by row, NaN where it is not known.

    ``over`` is "eps" (of the dtype), "f" (operations of f counted by hand), the name of a column, or
    "operator/method": the same metric of that baseline on the same problem, sizes, dtype, device, threads.
    """
    if over == "eps":
        return [EPS.get(dtype, math.nan) for dtype in rows["dtype"]]
    if over == "f":
        counts = (operations(str(p), int(n), int(t), int(b)) for p, n, t, b in tuples(rows, ["problem", *SIZES[:3]]))
        return [math.nan if c is None else float(c) for c in counts]
    if "/" not in over:
        return [number(v) for v in rows[over]] if over in rows else [math.nan] * len(rows)
    return [number(v) for v in baseline(over).values(metric, rows)]


def size_text(row: Mapping[str, Any], sizes: Iterable[str]) -> str:
    """``n=8, T=16`` for the sizes that are not 1."""
    symbols = {"depth": "T", "batch": "B", "order": "k"}
    return ", ".join(f"{symbols.get(s, s)}={int(row[s])}" for s in sizes if s in row and int(row[s]) != 1) or "n=1"

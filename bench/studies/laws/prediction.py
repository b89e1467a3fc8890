"""Do laws foretell sizes that nobody measured? Fitted on sizes up to N, held against 4N and 8N.

Pure functions of frames. Bytes need no truth, so that they are measured at any size (:attr:`Series.targets`); times
do, so that theirs are rows of a run (:func:`timed_targets`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from hograd_bench.cells import Cell
from hograd_bench.laws import ExactLaw, InsufficientData, exact_law, fitted_law
from hograd_bench.laws.fitted import MIN_SIZES

FACTORS = (4, 8)
SIZES = ("n", "depth", "batch")
SERIES = ("machine", "operator", "method", "problem", "order", "dtype", "device", "threads", "preparation")
BYTES = "peak_bytes"
SECONDS = "seconds_min"
# A worker holds the problem, float64 copies of its data for the truth, and the peak itself.
BUDGET = 3 * 2**30


@dataclass(frozen=True)
class Series:
    """Rows that differ in nothing but sizes, and the law that they gave.

    Attributes:
        name: operator[method] on problem, and what else tells it from others.
        rows: number of different cells.
        law: of ``peak_bytes`` up to N, or None.
        why: why there is no law.
        targets: the cells at 4N and 8N, one size enlarged at a time, with the bytes that the law foretells.
    """

    name: str
    rows: int
    law: ExactLaw | None
    why: str
    targets: tuple[tuple[Cell, int], ...] = ()


def series_of(frame: pd.DataFrame, budget: int = BUDGET) -> list[Series]:
    """Every series of the ok rows that have ``peak_bytes``, with its law and its targets.

    Args:
        frame: rows of the runs that laws are solved from.
        budget: bytes that a target may take; N is lowered until 8N fits.

    Returns:
        In a fixed order.
    """
    ok = frame[(frame["status"] == "ok") & frame[BYTES].notna()]
    return [_series(rows, budget) for _, rows in ok.groupby([c for c in SERIES if c in ok.columns], sort=True)]


def _series(rows: pd.DataFrame, budget: int) -> Series:
    first = _cell(rows.iloc[0])
    name = f"{first.operator}[{first.method}] on {first.problem}, order {first.order}, {first.dtype}, t{first.threads}"
    count = rows["cell"].nunique()
    kept = rows
    while True:
        law = exact_law(kept, BYTES, SIZES)
        if not isinstance(law, ExactLaw):
            return Series(name, count, None, str(law))
        top = kept.sort_values(list(SIZES)).iloc[-1]
        targets = tuple(_targets(_cell(top), law))
        largest = max((size for _, size in targets), default=0)
        if largest <= budget:
            return Series(name, count, law, "", targets)
        grown = max(targets, key=lambda t: t[1])[0]
        variable = next(v for v in SIZES if getattr(grown, v) > int(top[v]))
        kept = kept[kept[variable] < kept[variable].max()]
        if kept.empty:
            return Series(name, count, None, f"8 N would take {largest:,} B, more than the budget of {budget:,} B")


def _targets(top: Cell, law: ExactLaw) -> Iterator[tuple[Cell, int]]:
    for variable in law.start:
        for factor in FACTORS:
            cell = replace(top, **{variable: factor * getattr(top, variable)})
            yield cell, law.predict({v: getattr(cell, v) for v in SIZES})


def _cell(row: pd.Series[Any]) -> Cell:
    return Cell.parse(str(row["cell"]))


@dataclass(frozen=True)
class Forecast:
    """A time foretold from sizes up to N.

    Attributes:
        cell: the larger cell.
        largest: N.
        factor: 4 or 8.
        low, high: the interval.
        measured: seconds.
        same_run: whether it was measured in the run that the law is from.
    """

    cell: Cell
    largest: int
    factor: int
    low: float
    high: float
    measured: float
    same_run: bool

    @property
    def covered(self) -> bool:
        """Whether the measurement lies in the interval."""
        return self.low <= self.measured <= self.high


def timed_targets(frame: pd.DataFrame) -> list[Cell]:
    """The cells at 8N of the timed series, N the largest size with enough below and 8N at most twice the top."""
    found = []
    for _, rows in _timed(frame):
        sizes = sorted({int(s) for s in rows["n"]})
        fitting = [s for s in sizes[MIN_SIZES - 1 :] if 4 * s <= sizes[-1]]
        if fitting:
            found.append(replace(_cell(rows.iloc[0]), n=8 * fitting[-1]))
    return found


def forecasts(frame: pd.DataFrame, coverage: float = 0.9) -> Iterator[Forecast]:
    """Every time at 4N or 8N that a law on the sizes up to N, of one run alone, foretells.

    Args:
        frame: rows of all runs; a time counts as one measurement.
        coverage: what the intervals are meant to contain.
    """
    for _, rows in _timed(frame):
        sizes = sorted({int(s) for s in rows["n"]})
        for position, largest in enumerate(sizes):
            wanted = [f for f in FACTORS if f * largest in sizes]
            alone = set(rows["run"]) - set(rows.loc[rows["n"] <= largest, "run"])  # runs of the larger sizes alone
            if position + 1 < MIN_SIZES or not wanted:
                continue
            for run, own in rows[rows["n"] <= largest].groupby("run", sort=True):
                law = fitted_law(own, SECONDS, "n")
                if isinstance(law, InsufficientData):
                    continue
                for factor in wanted:
                    told = law.predict(factor * largest, coverage)
                    # Of other default runs nothing is asked: their machine may have been busier all along.
                    ahead = rows[(rows["n"] == factor * largest) & (rows["run"].isin([run, *alone]))]
                    for _, row in ahead.iterrows():
                        measured = float(row[SECONDS])
                        yield Forecast(_cell(row), largest, factor, told.low, told.high, measured, row["run"] == run)


def _timed(frame: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    if SECONDS not in frame.columns:
        return
    ok = frame[(frame["status"] == "ok") & frame[SECONDS].notna()]
    others = [c for c in (*SERIES, "depth", "batch") if c in ok.columns]
    yield from ok.groupby(others, sort=True)


@dataclass(frozen=True)
class Judged:
    """A series against the rows at its targets.

    Attributes:
        series: the series.
        outcome: "exact", "missed", "no law", "not measured".
        reason: why it is not exact, with the first miss in figures.
    """

    series: Series
    outcome: str
    reason: str = ""


def judged(series: Iterable[Series], measured: Mapping[str, int | str]) -> list[Judged]:
    """Each series against what was measured at 4N and 8N; exact means zero residual at every target.

    Args:
        series: with their targets.
        measured: cell id -> peak bytes, or why there are none.
    """
    return [_judged(each, measured) for each in series]


def _judged(series: Series, measured: Mapping[str, int | str]) -> Judged:
    if series.law is None:
        return Judged(series, "no law", series.why)
    absent = []
    for cell, told in series.targets:
        got = measured.get(cell.id, "not measured")
        if isinstance(got, str):
            absent.append(f"{cell.id}: {got}")
        elif got != told:
            why = f"{got:,} B at n={cell.n}, T={cell.depth}, foretold {told:,} ({got - told:+,}); {series.law.text}"
            return Judged(series, "missed", why)
    return Judged(series, "not measured", "; ".join(absent[:2])) if absent else Judged(series, "exact")

"""What one page speaks about: rows with the anchors of their evidence, looks, environments, metric records."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hograd_bench import facts, metrics, store
from hograd_bench.environment import Environment, MetricRecord
from hograd_bench.report.palette import Palette

MOST_CELLS = 2000
"""Cells with a row and evidence of their own on the page; all others are in the data beside it."""

PLAUSIBLE = (1e-30, 1e30)
"""No time, size, energy or ratio of them is beyond."""
LOOSER = 2.0
"""A method whose own tolerance is this many times that of the tightest on the same cell is an approximation."""
_CELL = ("operator", "problem", "order", "n", "depth", "batch", "dtype", "device", "threads", "machine")
_SETTING = ("machine", "device", "threads", "dtype", "preparation")


@dataclass(frozen=True)
class ReportData:
    """Everything that figures and tables are made from.

    Attributes:
        rows: the newest row of every cell and machine, with a column ``anchor``: the id of its evidence on the page,
            or "" where it has none.
        everything: all rows of all runs.
        environments: by (machine, run).
        palette: looks of methods.
        records: metric records by name.
        cut: number of cells without evidence on the page.
    """

    rows: pd.DataFrame
    everything: pd.DataFrame
    environments: Mapping[tuple[str, str], Environment]
    palette: Palette
    records: Mapping[str, MetricRecord]
    cut: int

    @functools.cached_property
    def ok(self) -> pd.DataFrame:
        """The rows that came out well."""
        chosen: pd.DataFrame = self.rows[self.rows["status"] == "ok"]
        return chosen

    @functools.cached_property
    def exact(self) -> pd.DataFrame:
        """Of those the rows of hograd's methods that are no approximations."""
        return exact(self.ok)

    @functools.cached_property
    def telling(self) -> tuple[str, ...]:
        """The columns of a setting in which the rows that came out well differ."""
        return telling(self.ok)

    def environment(self, row: Mapping[str, Any]) -> Environment:
        """The environment of a row."""
        return self.environments.get((row["machine"], row["run"]), {})


def report_data(
    loaded: store.Results,
    records: Mapping[str, MetricRecord] | None = None,
    first: Collection[str] = (),
) -> ReportData:
    """Select what the page shows.

    Args:
        loaded: from ``store.load``.
        records: metric records; None: those installed, and those that came with the runs.
        first: cells that must keep their evidence where not all can (those that verdicts rest on).
    """
    rows = store.newest(loaded.rows)
    names = store.metric_columns(rows)
    weight = rows["cell"].isin(set(first)).to_numpy() * 2 + (rows["status"] != "ok").to_numpy()
    chosen = np.sort(np.argsort(-weight, kind="stable")[:MOST_CELLS])
    anchors = np.full(len(rows), "", dtype=object)
    anchors[chosen] = [f"c{i}" for i in range(len(chosen))]
    rows = store.plain(rows.assign(anchor=anchors)).copy()  # copied: few blocks, where figures cut hundreds of parts
    known: dict[str, MetricRecord] = dict(metrics.known() if records is None else records)
    for name in names:
        known.setdefault(name, metrics.Metric(name, "1", False, "unknown", "declared by no metric file"))
    palette = Palette(zip(rows["operator"], rows["method"], strict=True))
    return ReportData(rows, loaded.rows, loaded.environments, palette, known, len(rows) - len(chosen))


def numbers(rows: pd.DataFrame, metric: str) -> pd.Series[float]:
    """A metric as floats, NaN where there is none (or text); positive infinity does not occur in a row."""
    if metric not in rows.columns:
        nothing: pd.Series[float] = pd.Series(np.nan, index=rows.index, dtype=float)
        return nothing
    column: pd.Series[float] = pd.to_numeric(rows[metric], errors="coerce").astype(float)
    return column


def positive(rows: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    """The rows in which all of these metrics are numbers that can be drawn and fitted, those columns as floats.

    Above 0, and within :data:`PLAUSIBLE`: a damaged row may hold anything.
    """
    made = rows.assign(**{m: numbers(rows, m) for m in metrics})
    values = made[list(metrics)]
    chosen: pd.DataFrame = made[((values > PLAUSIBLE[0]) & (values < PLAUSIBLE[1])).all(axis=1)]
    return chosen


def approximations(rows: pd.DataFrame) -> set[tuple[str, str]]:
    """(Operator, method) of the methods that are held to a looser tolerance than others on any cell (:data:`LOOSER`).

    Of a method, not of a row: most rows do not say what their result was held to.
    """
    told = rows.assign(tolerance=numbers(rows, "tolerance"))
    told = told[told["tolerance"].notna()]
    tightest = told.groupby([told[c] for c in _CELL], observed=True)["tolerance"].transform("min")
    loose = told[told["tolerance"] > LOOSER * tightest]
    return set(zip(loose["operator"], loose["method"], strict=True))


def exact(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows without those of approximations: a finite difference is fast, and answers another question."""
    loose = approximations(rows)
    keep = np.array([way not in loose for way in zip(rows["operator"], rows["method"], strict=True)], dtype=bool)
    return facts.without_peers(rows[keep])


def telling(rows: pd.DataFrame) -> tuple[str, ...]:
    """What of machine, device, threads, dtype and preparation differs between rows."""
    return tuple(column for column in _SETTING if rows[column].nunique() > 1)


def setting_of(row: Mapping[str, Any], columns: Collection[str]) -> str:
    """A row's values in what tells it from others (see :func:`telling`), in words; "" where nothing does."""
    from hograd_bench.report import text

    words = []
    for column in columns:
        if column in row:
            value = row[column]
            words.append(text.threads(int(value)) if column == "threads" else text.clean(value, 40))
    return ", ".join(words)

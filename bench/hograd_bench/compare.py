"""Two runs, cell by cell. Deterministic metrics are compared exactly; times become ratios, and ratios no verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hograd_bench.environment import Comparability, MetricRecord, comparable
from hograd_bench.schema import NOT_ASKED
from hograd_bench.store import metric_columns, texts_of

CHANGED = "the file that declares it has another text in the two runs"
TIME_NOTE = (
    "ratios of metrics that are not deterministic are no evidence: two runs of the same code differ by "
    "tens of percent; `hograd gate` interleaves processes to tell"
)

_DIFFERENCES = ["cell", "metric", "unit", "a", "b", "difference", "ratio", "note"]
_RATIOS = ["cell", "metric", "unit", "a", "b", "ratio"]
_STATUSES = ["cell", "status_a", "status_b", "reason_a", "reason_b"]


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs.

    Attributes:
        differences: deterministic metrics that differ, the largest change first: cell, metric, unit, a, b,
            difference = b - a, ratio = b / a (NaN where there is none), note (why a side is missing).
        ratios: other metrics as b / a, the largest change first, for orientation (:data:`TIME_NOTE`); empty where only
            deterministic ones were asked for.
        statuses: cells whose status changed, with both reasons; their metrics are not compared.
        only_a: ids of cells in the first run only.
        only_b: ids of cells in the second run only.
        comparability: device -> how far its cells may be compared, and why no further.
        not_compared: metric -> why it was not, for metrics that some cell has.
        changed: problems of one's own whose file had another text in the two runs; their cells are not compared.
        cells: number of cells compared.
        values: number of deterministic values compared.
    """

    differences: pd.DataFrame
    ratios: pd.DataFrame
    statuses: pd.DataFrame
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    comparability: Mapping[str, Comparability]
    not_compared: Mapping[str, str]
    cells: int
    values: int
    changed: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether something was compared, and every cell is there twice with one status and equal metrics."""
        differing = len(self.differences) + len(self.statuses) + len(self.only_a) + len(self.only_b) + len(self.changed)
        return self.values > 0 and differing == 0

    def summary(self) -> list[str]:
        """Sentences that say what was compared, what differs, and what was not compared and why."""
        lines = [
            f"{self.values} deterministic values of {self.cells} cells compared: {len(self.differences)} differ",
        ]
        for device, rule in sorted(self.comparability.items()):
            why = f": {'; '.join(rule.reasons)}" if rule.reasons else ""
            lines.append(f"cells on {device}: comparable: {rule.level}{why}")
        lines += [
            f"{len(found)} {what}"
            for found, what in (
                (self.statuses, "cells changed their status"),
                (self.only_a, "cells are in A only"),
                (self.only_b, "cells are in B only"),
            )
            if len(found)
        ]
        lines += [f"not compared: problem {name}: {CHANGED}" for name in self.changed]
        alike: dict[str, list[str]] = {}
        for metric, why in sorted(self.not_compared.items()):
            alike.setdefault(why, []).append(metric)
        lines += [f"not compared: {', '.join(named)}: {why}" for why, named in alike.items()]
        if not self.values and not len(self.differences):
            lines.append("nothing was compared: the runs share no cell with a deterministic metric that both measured")
        return lines

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON types, NaN as null."""
        tables = {name: _records(getattr(self, name)) for name in ("differences", "ratios", "statuses")}
        rules = {d: {"level": c.level, "reasons": list(c.reasons)} for d, c in sorted(self.comparability.items())}
        return {
            "same": self.same, "cells": self.cells, "values": self.values, **tables, "only_a": list(self.only_a),
            "only_b": list(self.only_b), "comparability": rules, "not_compared": dict(self.not_compared),
            "changed": list(self.changed), "note": TIME_NOTE,
        }  # fmt: skip


def doubts(a: Path, b: Path) -> list[str]:
    """What a person should know before believing a comparison of the runs in these folders."""
    if a.resolve() != b.resolve():
        return []
    return [f"A and B are one run, {a.resolve().name}, so that nothing can differ; name two"]


def compare(
    rows_a: pd.DataFrame,
    rows_b: pd.DataFrame,
    env_a: Mapping[str, Any],
    env_b: Mapping[str, Any],
    metrics: Mapping[str, MetricRecord],
    *,
    deterministic_only: bool = False,
) -> Comparison:
    """Compare two runs cell by cell.

    Args:
        rows_a: rows of one run, from ``store.load``.
        rows_b: rows of another.
        env_a: environment of the one.
        env_b: environment of the other.
        metrics: records by name, from ``metrics.metrics()``.
        deterministic_only: leave out the ratios.

    Returns:
        What differs. A metric that :func:`hograd_bench.environment.comparable` does not allow is not compared,
        and ``not_compared`` says why. A value on one side only is a difference, unless the other was not to measure it.

    Raises:
        ValueError: a frame holds a cell twice; it is of more than one run.
    """
    a, b = _by_cell(rows_a, "rows_a"), _by_cell(rows_b, "rows_b")
    texts_a, texts_b = texts_of(env_a), texts_of(env_b)
    met = set(a["problem"]) & set(b["problem"])
    changed = tuple(sorted(n for n in met & texts_a.keys() & texts_b.keys() if texts_a[n] != texts_b[n]))
    a, b = (one[~one["problem"].isin(changed)] for one in (a, b))
    both = a.index.intersection(b.index)
    paired_a, paired_b = a.loc[both], b.loc[both]
    turned = paired_a["status"] != paired_b["status"]
    was, now = paired_a[turned], paired_b[turned]
    columns = (both[turned], was["status"], now["status"], was["reason"], now["reason"])
    statuses = pd.DataFrame({name: list(column) for name, column in zip(_STATUSES, columns, strict=True)}, dtype=object)
    paired_a, paired_b = paired_a[~turned], paired_b[~turned]

    rules = {str(device): comparable(env_a, env_b, str(device)) for device in sorted(paired_a["device"].unique())}
    differences: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    not_compared: dict[str, str] = {}
    values = 0
    for name in sorted({*metric_columns(a), *metric_columns(b)}):
        record = metrics.get(name)
        if record is None:
            not_compared[name] = "this hograd has no metric of that name"
            continue
        if deterministic_only and not record.deterministic:
            continue
        for device, rule in rules.items():
            here = (paired_a["device"] == device).array
            left, right = _values(paired_a[here], name), _values(paired_b[here], name)
            known = left.notna() | right.notna()
            if not known.any():
                continue
            if record.deterministic and not rule.allows(record):
                not_compared[name] = f"on {device}: {'; '.join(rule.reasons)}"
                continue
            left, right = left[known], right[known]
            unasked = _unasked(left, paired_a["missing"], name) | _unasked(right, paired_b["missing"], name)
            if unasked.any():
                not_compared[name] = f"in {int(unasked.sum())} cells: {NOT_ASKED} by one of the runs"
                left, right = left[~unasked], right[~unasked]
            if record.deterministic:
                values += len(left)
                unequal = (left != right).to_numpy(dtype=bool)
                differences += [
                    _difference(
                        cell, name, record.unit, x, y, paired_a.at[cell, "missing"], paired_b.at[cell, "missing"]
                    )
                    for cell, x, y in zip(left.index[unequal], left[unequal], right[unequal], strict=True)
                ]
            else:
                ratios += [
                    {"cell": cell, "metric": name, "unit": record.unit, "a": x, "b": y, "ratio": _ratio(x, y)}
                    for cell, x, y in zip(left.index, left, right, strict=True)
                ]
    for changes in (differences, ratios):
        changes.sort(key=_size, reverse=True)
    return Comparison(
        pd.DataFrame(differences, columns=_DIFFERENCES),
        pd.DataFrame(ratios, columns=_RATIOS),
        statuses,
        tuple(a.index.difference(b.index)),
        tuple(b.index.difference(a.index)),
        rules,
        not_compared,
        len(paired_a),
        values,
        changed,
    )


def _by_cell(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    twice = rows["cell"][rows["cell"].duplicated()]
    if len(twice):
        raise ValueError(
            f"{name}: got several rows of {twice.iloc[0]}, expected the rows of one run; "
            "select it with rows[rows.run == id]"
        )
    indexed: pd.DataFrame = rows.set_index("cell")
    return indexed


def _values(rows: pd.DataFrame, name: str) -> pd.Series[Any]:
    return rows[name] if name in rows else pd.Series(float("nan"), index=rows.index)


def _unasked(values: pd.Series[Any], reasons: pd.Series[Any], name: str) -> pd.Series[bool]:
    """Which values are missing because their run was not to measure them: no change of the code's."""
    pairs = zip(values.index, values.isna(), strict=True)
    unasked = [bool(gone) and reasons[cell].get(name) == NOT_ASKED for cell, gone in pairs]
    found: pd.Series[bool] = pd.Series(unasked, index=values.index, dtype=bool)
    return found


def _difference(cell: str, metric: str, unit: str, a: Any, b: Any, why_a: Any, why_b: Any) -> dict[str, Any]:
    notes = [
        f"missing in {side}: {why.get(metric, 'not recorded')}"
        for side, value, why in (("A", a, why_a), ("B", b, why_b))
        if pd.isna(value)
    ]
    numbers = all(isinstance(value, (int, float)) for value in (a, b))
    return {
        "cell": cell, "metric": metric, "unit": unit, "a": a, "b": b,
        "difference": b - a if numbers else float("nan"), "ratio": _ratio(a, b), "note": "; ".join(notes),
    }  # fmt: skip


def _size(change: Mapping[str, Any]) -> float:
    """How large a change is, either way; what came, went or has no ratio is beyond all."""
    ratio = change["ratio"]
    return abs(math.log(ratio)) if 0 < ratio < math.inf else math.inf


def _ratio(a: Any, b: Any) -> float:
    numbers = all(isinstance(value, (int, float)) for value in (a, b))
    return b / a if numbers and a else float("nan")


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return [{key: None if pd.isna(value) else value for key, value in row.items()} for row in rows]

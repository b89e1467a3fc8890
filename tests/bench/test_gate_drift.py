"""Cumulative drift: growth that each gate let through, added up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hograd_bench import schema, store
from hograd_bench.cells import Cell
from hograd_bench.gate.exact import drift
from hograd_bench.gate.outcome import Outcome
from hograd_bench.schema import Row

CELL = Cell("derivative_tensor", "rows", "mlp", 6)


def entry(status: str = "ok", metrics: dict[str, Any] | None = None) -> Row:
    return schema.row(CELL, status, None if status == "ok" else "because", metrics=metrics or {})


def history(*values: int) -> list[tuple[str, dict[str, Row]]]:
    return [(f"r{i}", {"cell": entry("ok", {"peak_bytes": v})}) for i, v in enumerate(values)]


def test_banked_steps_add_up_and_are_listed() -> None:
    findings, compared = drift.exact_drift(history(100, 102, 102, 104, 107), 0.05)
    assert compared == 1
    (found,) = findings
    assert (found.before, found.after) == (100, 107)
    assert "+7.0%" in found.text
    assert "3 steps: +2 at r1, +2 at r3, +3 at r4" in found.text


def test_small_or_undone_growth_is_silent() -> None:
    assert drift.exact_drift(history(100, 104), 0.05) == ([], 1)
    assert drift.exact_drift(history(100, 150, 100), 0.05) == ([], 1)


def test_growth_from_nothing_counts() -> None:
    (found,), _ = drift.exact_drift(history(0, 0, 8), 0.5)
    assert found.after == 8


def test_what_is_born_later_counts_from_its_birth() -> None:
    """A cell, and a metric of an old cell, that the first revision lacks."""
    told = [
        ("a", {"k": entry("ok", {"m": 1})}),
        ("b", {"k": entry("ok", {"m": 1, "o": 10}), "c": entry("ok", {"m": 100})}),
        ("now", {"k": entry("ok", {"m": 1, "o": 20}), "c": entry("ok", {"m": 500}), "new": entry("ok", {"m": 7})}),
    ]
    findings, compared = drift.exact_drift(told, 0.05)
    assert compared == 2, "a cell of the head alone has nothing to be compared with"
    assert [(f.kind, f.cell, f.metric, f.before, f.after) for f in findings] == [
        ("growth", "c", "m", 100, 500),
        ("growth", "k", "o", 10, 20),
    ]
    assert all("since b, in 1 step: +" in f.text for f in findings)


def test_what_the_head_lacks_is_missing() -> None:
    told = [
        ("a", {"gone": entry("ok", {"m": 1}), "kept": entry("ok", {"m": 1, "o": 1})}),
        ("b", {"gone": entry("ok", {"m": 1}), "later": entry("ok", {"m": 1}), "never": entry("unsupported")}),
        ("now", {"kept": entry("ok", {"m": 1}), "later": entry("failed")}),
    ]
    findings, compared = drift.exact_drift(told, 0.0)
    assert compared == 1
    assert [(f.kind, f.cell, f.metric) for f in findings] == [
        ("missing", "gone", ""), ("missing", "kept", "o"), ("broken", "later", "status"),
    ]  # fmt: skip
    assert "was ok at b, is there no more; if that is meant, start --since at a later revision" in findings[0].text
    assert "was 1 at a" in findings[1].text
    assert "is failed now" in findings[2].text
    unasked, _ = drift.exact_drift(told, 0.0, whole=False)
    assert [f.cell for f in unasked] == ["later"], "a stored run lacks what it was not asked for"


def test_cells_without_a_pair_are_not_compared() -> None:
    healed = [("a", {"cell": entry("failed")}), ("b", {"cell": entry("ok", {"m": 1})})]
    assert drift.exact_drift(healed, 0.0) == ([], 0)
    with pytest.raises(ValueError, match="two"):
        drift.exact_drift(history(1), 0.0)


def test_stored_rows_are_a_history(tmp_path: Path) -> None:
    """Exact metrics of the rows that were tried; what a run did not measure is not gone."""
    environment = {"machine": "machine", "torch": {"version": "2"}}
    for run, peak in (("2026-01", 10), ("2026-02", 12)):
        with store.create_run(tmp_path, environment, run) as opened:
            opened.append(entry("ok", {"peak_bytes": peak, "seconds_min": peak / 2, "relative_error": peak / 3}))
            other = Cell("derivative_tensor", "rows", "mlp", 7)
            opened.append(schema.row(other, "skipped" if run == "2026-02" else "ok", "because", metrics={}))
    found = Outcome("t")
    drift._stored(found, "2026-01", 0.05, tmp_path)
    (grown,) = found.findings
    assert (grown.kind, grown.metric, grown.before, grown.after, found.counted) == ("growth", "peak_bytes", 10, 12, 1)
    drift._stored(alone := Outcome("t"), "2026-02", 0.05, tmp_path)
    assert [f.kind for f in alone.findings] == ["not comparable"]

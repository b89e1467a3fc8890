"""Cumulative drift: growth that each gate let through, added up."""

from __future__ import annotations

import pytest
from hograd_bench.gate.exact import drift
from hograd_bench.gate.exact.deterministic import Entry


def history(*values: int) -> list[tuple[str, dict[str, Entry]]]:
    return [(f"r{i}", {"cell": Entry("ok", {"peak_bytes": v})}) for i, v in enumerate(values)]


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
        ("a", {"k": Entry("ok", {"m": 1})}),
        ("b", {"k": Entry("ok", {"m": 1, "n": 10}), "c": Entry("ok", {"m": 100})}),
        ("now", {"k": Entry("ok", {"m": 1, "n": 20}), "c": Entry("ok", {"m": 500}), "new": Entry("ok", {"m": 7})}),
    ]
    findings, compared = drift.exact_drift(told, 0.05)
    assert compared == 2, "a cell of the head alone has nothing to be compared with"
    assert [(f.kind, f.cell, f.metric, f.before, f.after) for f in findings] == [
        ("growth", "c", "m", 100, 500),
        ("growth", "k", "n", 10, 20),
    ]
    assert all("since b, in 1 step: +" in f.text for f in findings)


def test_what_the_head_lacks_is_missing() -> None:
    told = [
        ("a", {"gone": Entry("ok", {"m": 1}), "kept": Entry("ok", {"m": 1, "n": 1})}),
        ("b", {"gone": Entry("ok", {"m": 1}), "later": Entry("ok", {"m": 1}), "never": Entry("unsupported")}),
        ("now", {"kept": Entry("ok", {"m": 1}), "later": Entry("failed")}),
    ]
    findings, compared = drift.exact_drift(told, 0.0)
    assert compared == 1
    assert [(f.kind, f.cell, f.metric) for f in findings] == [
        ("missing", "gone", ""), ("missing", "kept", "n"), ("broken", "later", "status"),
    ]  # fmt: skip
    assert "was ok at b, is there no more; if that is meant, start --since at a later revision" in findings[0].text
    assert "was 1 at a" in findings[1].text
    assert "is failed now" in findings[2].text
    unasked, _ = drift.exact_drift(told, 0.0, whole=False)
    assert [f.cell for f in unasked] == ["later"], "a stored run lacks what it was not asked for"


def test_cells_without_a_pair_are_not_compared() -> None:
    healed = [("a", {"cell": Entry("failed")}), ("b", {"cell": Entry("ok", {"m": 1})})]
    assert drift.exact_drift(healed, 0.0) == ([], 0)
    with pytest.raises(ValueError, match="two"):
        drift.exact_drift(history(1), 0.0)


def test_stored_rows_are_a_history() -> None:
    rows = [
        {"run": run, "cell": "c", "status": "ok", "metrics": {"peak_bytes": peak, "min_seconds": 0.5, "noisy": True}}
        for run, peak in (("2026-01", 10.0), ("2026-02", 12))
    ]
    rows.append({"run": "2026-02", "cell": "untried", "status": "skipped", "metrics": {}})
    made = drift.from_rows(rows, ["peak_bytes", "min_seconds", "noisy"])
    assert made == [
        ("2026-01", {"c": Entry("ok", {"peak_bytes": 10})}),
        ("2026-02", {"c": Entry("ok", {"peak_bytes": 12})}),
    ]

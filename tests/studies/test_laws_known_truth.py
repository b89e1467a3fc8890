"""The study, small: no wrong verdicts, decided ones where the data allow it, and honest predictions."""

from __future__ import annotations

from collections import Counter

import pytest
from studies.laws import known_truth as study
from studies.laws import synthetic
from studies.laws.known_truth import Trial, graded, table


def shares(trials, **where):
    chosen = [t for t in trials if all(getattr(t, k) == v for k, v in where.items())]
    counts = Counter(t.outcome for t in chosen)
    return {outcome: counts[outcome] / len(chosen) for outcome in ("right", "wrong", "undecided", "covered", "missed")}


@pytest.fixture(scope="module")
def times():
    return list(study.time_trials(2, noises=(0.01, 0.10, 0.30), seed=5))


@pytest.mark.slow
def test_growth_verdicts_are_wrong_in_at_most_one_percent(times):
    verdicts = [t for t in times if t.kind != "prediction"]
    assert len(verdicts) > 900
    assert shares(verdicts)["wrong"] <= 0.01


@pytest.mark.slow
def test_quiet_data_are_decided(times):
    for truth in ("n", "n²", "n³"):
        seen = shares([t for t in times if t.kind != "prediction"], truth=truth, noise=0.01, disturbance="8 sizes")
        assert seen["right"] >= 0.8


def test_overwhelming_overhead_and_few_sizes_are_never_decided(times):
    verdicts = [t for t in times if t.kind != "prediction"]
    assert shares(verdicts, truth="n + overwhelming overhead")["undecided"] > 0.98
    assert shares(verdicts, disturbance="3 sizes")["undecided"] == 1
    assert shares(verdicts, disturbance="narrow span")["undecided"] == 1


def test_predictions_cover_what_they_say(times):
    seen = shares([t for t in times if t.kind == "prediction"], noise=0.10)
    assert seen["covered"] >= 0.8


@pytest.mark.slow
def test_growth_in_the_order_is_wrong_in_at_most_one_percent():
    trials = list(study.order_trials(4, noises=(0.01, 0.10, 0.30), seed=5))
    assert shares(trials)["wrong"] <= 0.01
    assert shares(trials, noise=0.01, disturbance="orders 1-6")["right"] > 0.4


def test_exact_laws():
    trials = list(study.exact_trials(5, seed=5))
    assert shares(trials)["wrong"] == 0
    assert shares(trials)["right"] == 1


def test_a_rule_that_cannot_fail_would_be_seen(monkeypatch):
    """The study itself must notice a decision that says "holds" to everything."""
    monkeypatch.setattr(study, "decide", lambda *a, **k: "holds")
    trials = study.time_trials(1, truths=synthetic.TIMES[:3], disturbances=synthetic.DISTURBANCES[:1], noises=(0.01,))
    assert shares([t for t in trials if t.kind != "prediction"])["wrong"] > 0.2


def test_grading():
    assert graded("holds", True) == graded("refuted", False) == "right"
    assert graded("holds", False) == graded("refuted", True) == "wrong"
    assert graded("insufficient data", True) == "undecided"


def test_table_counts():
    text = table([Trial("a", "t", "d", 0.1, "right"), Trial("a", "t", "d", 0.1, "wrong")], ("kind",))
    assert "| a | 2 | 50.00% |" in text


@pytest.mark.slow
def test_tables_are_markdown(monkeypatch):
    monkeypatch.setattr(study, "time_trials", lambda *a, **k: iter([Trial("growth", "n", "8 sizes", 0.1, "right")]))
    text = study.tables(1)
    assert "### All verdicts" in text
    assert "| growth | 1 | 0.00% |" in text

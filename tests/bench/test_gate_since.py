"""Slow poison: growth that each step let through, added up."""

from __future__ import annotations

import math
import random

import pytest
from hograd_bench.gate import since
from hograd_bench.gate.deterministic import Entry
from hograd_bench.gate.since import Ratio


def history(*values: int) -> list[tuple[str, dict[str, Entry]]]:
    return [(f"r{i}", {"cell": Entry("ok", {"peak_bytes": v})}) for i, v in enumerate(values)]


def test_banked_steps_add_up_and_are_listed() -> None:
    findings, compared = since.exact_drift(history(100, 102, 102, 104, 107), 0.05)
    assert compared == 1
    (found,) = findings
    assert (found.before, found.after) == (100, 107)
    assert "+7.0%" in found.text
    assert "3 steps: +2 at r1, +2 at r3, +3 at r4" in found.text


def test_small_or_undone_growth_is_silent() -> None:
    assert since.exact_drift(history(100, 104), 0.05) == ([], 1)
    assert since.exact_drift(history(100, 150, 100), 0.05) == ([], 1)


def test_growth_from_nothing_counts() -> None:
    (found,), _ = since.exact_drift(history(0, 0, 8), 0.5)
    assert found.after == 8


def test_what_is_born_later_counts_from_its_birth() -> None:
    """A cell, and a metric of an old cell, that the first revision lacks."""
    told = [
        ("a", {"k": Entry("ok", {"m": 1})}),
        ("b", {"k": Entry("ok", {"m": 1, "n": 10}), "c": Entry("ok", {"m": 100})}),
        ("now", {"k": Entry("ok", {"m": 1, "n": 20}), "c": Entry("ok", {"m": 500}), "new": Entry("ok", {"m": 7})}),
    ]
    findings, compared = since.exact_drift(told, 0.05)
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
    findings, compared = since.exact_drift(told, 0.0)
    assert compared == 1
    assert [(f.kind, f.cell, f.metric) for f in findings] == [
        ("missing", "gone", ""), ("missing", "kept", "n"), ("broken", "later", "status"),
    ]  # fmt: skip
    assert "was ok at b, is there no more; if that is meant, start --since at a later revision" in findings[0].text
    assert "was 1 at a" in findings[1].text
    assert "is failed now" in findings[2].text
    unasked, _ = since.exact_drift(told, 0.0, whole=False)
    assert [f.cell for f in unasked] == ["later"], "a stored run lacks what it was not asked for"


def test_cells_without_a_pair_are_not_compared() -> None:
    healed = [("a", {"cell": Entry("failed")}), ("b", {"cell": Entry("ok", {"m": 1})})]
    assert since.exact_drift(healed, 0.0) == ([], 0)
    with pytest.raises(ValueError, match="two"):
        since.exact_drift(history(1), 0.0)


def test_stored_rows_are_a_history() -> None:
    rows = [
        {"run": run, "cell": "c", "status": "ok", "metrics": {"peak_bytes": peak, "min_seconds": 0.5, "noisy": True}}
        for run, peak in (("2026-01", 10.0), ("2026-02", 12))
    ]
    rows.append({"run": "2026-02", "cell": "untried", "status": "skipped", "metrics": {}})
    made = since.from_rows(rows, ["peak_bytes", "min_seconds", "noisy"])
    assert made == [
        ("2026-01", {"c": Entry("ok", {"peak_bytes": 10})}),
        ("2026-02", {"c": Entry("ok", {"peak_bytes": 12})}),
    ]


def chain(steps: list[float], error: float = 0.004, seed: int = 0) -> list[Ratio]:
    rng = random.Random(seed)
    return [Ratio(f"c{i}", f"c{i + 1}", "cell", s + rng.gauss(0, error), error) for i, s in enumerate(steps)]


def test_a_chain_adds_up_and_its_error_grows_as_the_root() -> None:
    levels = since.levels(chain([0.01] * 16, seed=3), "c0")
    end = levels["c16"]
    assert end.error == pytest.approx(0.004 * 4)
    assert abs(end.log - 0.16) < 3 * end.error


def test_an_anchor_keeps_the_error_from_growing() -> None:
    ratios = [*chain([0.01] * 16), Ratio("c0", "c16", "cell", 0.16, 0.004)]
    end = since.levels(ratios, "c0")["c16"]
    assert end.error < 0.004
    assert end.log == pytest.approx(0.16, abs=0.012)


def test_levels_agree_with_arithmetic_on_a_triangle() -> None:
    """Two ways to c2 that disagree by 0.03: each edge of equal weight takes a third of it."""
    ratios = [Ratio("a", "b", "x", 0.10, 0.01), Ratio("b", "c", "x", 0.10, 0.01), Ratio("a", "c", "x", 0.23, 0.01)]
    levels = since.levels(ratios, "a")
    assert levels["b"].log == pytest.approx(0.11)
    assert levels["c"].log == pytest.approx(0.22)
    assert levels["c"].error == pytest.approx(0.01 * math.sqrt(2 / 3))


def test_what_no_chain_reaches_has_no_level() -> None:
    ratios = [*chain([0.01]), Ratio("x", "y", "cell", 0.5, 0.01)]
    assert set(since.levels(ratios, "c0")) == {"c1"}
    assert since.levels(ratios, "nowhere") == {}
    assert since.time_drift(ratios, "c0", "y", 0.02) == ([], 0)


def test_creeping_slowness_below_every_pairwise_threshold_is_found() -> None:
    """Eight steps of 1.5%: the pairwise gate calls each the same; together they are 12.7%."""
    ratios = chain([math.log(1.015)] * 8, seed=7)
    findings, cells = since.time_drift(ratios, "c0", "c8", 0.05)
    assert cells == 1
    assert (findings[0].kind, findings[0].metric) == ("slower", "time")
    assert findings[0].after == pytest.approx(1.015**8, rel=0.03)


def test_drift_raises_few_false_alarms() -> None:
    alarms = 0
    for seed in range(300):
        ratios = [
            Ratio(r.a, r.b, f"cell{c}", r.log_ratio, r.error)
            for c in range(10)
            for r in chain([0.0] * 10, seed=1000 * c + seed)
        ]
        alarms += bool(since.time_drift(ratios, "c0", "c10", 0.0)[0])
    assert alarms / 300 <= 0.03  # 1% stated


def test_faster_is_said_too() -> None:
    (found,), _ = since.time_drift([Ratio("a", "b", "x", -0.2, 0.01)], "a", "b", 0.05)
    assert (found.kind, found.level) == ("faster", "notice")


def test_the_ledger_survives_the_round_trip() -> None:
    made = since.ratio("a", "b", "x", [0.01, 0.02, 0.015, 9.0, 0.0175], "machine", "now")
    assert made.log_ratio == pytest.approx(0.0175)
    assert made.error < 0.01, "one pair that is far off counts for little"
    assert (made.pairs, made.freedom) == (5, 2)
    assert since.parse_ledger(made.to_line() + "\n\n", "l") == [made]
    assert since.ratio("a", "b", "x", [0.01] * 9).error == since.LEAST_ERROR


def test_too_few_pairs_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="pairs: got 4, expected at least 5"):
        since.ratio("a", "b", "x", [0.01] * 4)
    lines = [Ratio("a", "b", "x", 0.1, 0.002, pairs=n).to_line() for n in (1, 4, 5)]
    assert [r.pairs for r in since.parse_ledger("\n".join(lines), "l")] == [5]


def test_an_older_ledger_is_read_and_trusted_as_the_fewest_pairs_are() -> None:
    line = '{"schema":1,"a":"a","b":"b","cell":"c","log_ratio":0.1,"error":0.01,"machine":"m","when":"w"}'
    (read,) = since.parse_ledger(line, "l")
    assert (read.pairs, read.freedom) == (0, Ratio("a", "b", "c", 0.1, 0.01, pairs=since.LEAST_PAIRS).freedom)


def measured(
    step: float, pairs: int, spread: float, rng: random.Random, *, anchored: bool, times: int = 1
) -> list[Ratio]:
    """A ledger of five links of 34 cells, each measured so often in so many process pairs; ``step``: a link's drift."""
    links = times * ([(f"c{i}", f"c{i + 1}", step) for i in range(5)] + [("c0", "c5", 5 * step)] * anchored)
    return [
        since.ratio(a, b, f"cell{cell}", [rng.gauss(true, spread) for _ in range(pairs)])
        for cell in range(34)
        for a, b, true in links
    ]


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize(("pairs", "spread"), [(5, 0.014), (5, 0.05), (13, 0.05)])
def test_a_ledger_of_identical_code_raises_few_alarms(pairs: int, spread: float, anchored: bool) -> None:
    """Errors that come from few pairs themselves: 1% of ledgers stated, even where any drift is worth a word."""
    rng = random.Random(1)
    ledgers = [measured(0.0, pairs, spread, rng, anchored=anchored) for _ in range(60)]
    assert sum(bool(since.time_drift(ledger, "c0", "c5", 0.0)[0]) for ledger in ledgers) <= 2


@pytest.mark.parametrize("times", [3, 8])
def test_links_that_were_measured_many_times_raise_no_more_alarms(times: int) -> None:
    """Weighed by their own errors, lines that look exact by luck would win, and the more of them the surer."""
    rng = random.Random(1)
    ledgers = [measured(0.0, 5, 0.05, rng, anchored=False, times=times) for _ in range(40)]
    assert sum(bool(since.time_drift(ledger, "c0", "c5", 0.0)[0]) for ledger in ledgers) <= 2


def test_a_link_measured_backwards_counts_as_well() -> None:
    there = Ratio("a", "b", "x", 0.10, 0.01, pairs=5)
    back = Ratio("b", "a", "x", -0.20, 0.01, pairs=5)
    level = since.levels([there, back], "a")["b"]
    assert level.log == pytest.approx(0.15)
    assert level.error == pytest.approx(0.01 / 2**0.5)
    assert level.freedom == pytest.approx(there.freedom + back.freedom)


def test_a_real_drift_is_found_in_a_ledger_of_few_pairs() -> None:
    ledger = measured(0.03, 13, 0.014, random.Random(2), anchored=False)
    findings, cells = since.time_drift(ledger, "c0", "c5", 0.05)
    assert [f.kind for f in findings] == ["slower"] * cells
    assert cells == 34
    few = measured(0.05, 5, 0.014, random.Random(2), anchored=False)
    assert len(since.time_drift(few, "c0", "c5", 0.05)[0]) > 17


@pytest.mark.parametrize(
    "line",
    [
        "{", "[]", "7", '{"schema": 2}', '{"schema": 1}',
        '{"schema":1,"a":"a","b":"b","cell":"c","log_ratio":NaN,"error":1}',
        '{"schema":1,"a":"a","b":"b","cell":"c","log_ratio":0,"error":0}',
        '{"schema":1,"a":"a","b":"b","cell":"c","log_ratio":0,"error":1,"pairs":-1}',
        '{"schema":1,"a":"a","b":"b","cell":"c","log_ratio":0,"error":1,"pairs":"many"}',
    ],
)  # fmt: skip
def test_damage_in_the_ledger_names_the_line(line: str) -> None:
    good = Ratio("a", "b", "c", 0.0, 0.1).to_line()
    with pytest.raises(ValueError, match=r"file\.jsonl:2"):
        since.parse_ledger(f"{good}\n{line}\n", "file.jsonl")

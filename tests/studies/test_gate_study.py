"""The study's arithmetic on synthetic recordings; no process is started."""

from __future__ import annotations

import math
import random
import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hograd_bench.gate.statistics.policy import Policy
from studies.gate import page, recording, resampling, rules
from studies.gate.recording import Recorded, Study, WholeRun
from studies.gate.rules import RULES, Process

import hograd_core

CELLS = [f"cell{i}" for i in range(5)]


def process(rng: random.Random, level: float, spread: float) -> Process:
    """A process whose own luck moves all its times by ``spread``; its least call hardly strays from that level."""
    own = level * math.exp(rng.gauss(0, spread))
    means = tuple(own * (1.05 + abs(rng.gauss(0, 0.03))) for _ in range(6))
    return Process(own * (1 + abs(rng.gauss(0, 0.002))), own * 1.04, means)


def pairs(
    count: int, factor: float = 1.0, spread: float = 0.15, between: float = 0.005, seed: int = 0
) -> list[Recorded]:
    """Pairs whose processes differ widely from pair to pair (``spread``) and hardly within one (``between``)."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        cells = {}
        for cell in CELLS:
            level = 1e6 * math.exp(rng.gauss(0, spread))
            cells[cell] = (process(rng, level, between), process(rng, level * factor, between))
        turns = {
            cell: tuple(math.log(b.least / a.least) + rng.gauss(0, 0.004) for _ in range(16))
            for cell, (a, b) in cells.items()
        }
        made.append(Recorded(factor, cells, turns, 0.5, 3.0, 3.0))
    return made


def study() -> Study:
    runs = [
        WholeRun(1.0, "", 0.0, dict.fromkeys(CELLS, "same"), 5, 60.0, 0.4),
        WholeRun(1.10, "cell1", 0.0, {**dict.fromkeys(CELLS, "same"), "cell1": "slower"}, 14, 90.0, 0.4),
        WholeRun(1.0, "", 60.0, dict.fromkeys(CELLS, "inconclusive"), 14, 290.0, 3.4),
    ]
    planted = [p for f in (1.05, 1.10) for p in pairs(20, f, seed=int(100 * f))]
    return Study("a machine", pairs(30) + planted, runs, {"extra_call": (82, 82)})


def test_recordings_survive_the_round_trip(tmp_path: Path) -> None:
    made = study()
    recording.write(tmp_path / "s.gz", made)
    read = recording.read(tmp_path / "s.gz")
    assert (read.machine, read.runs, read.exact) == (made.machine, made.runs, made.exact)
    for a, b in zip(read.pairs, made.pairs, strict=True):
        assert (a.factor, a.load, a.imports, a.preparation) == (b.factor, b.load, b.imports, b.preparation)
        for cell in CELLS:
            assert a.turns[cell] == pytest.approx(b.turns[cell], abs=1e-4)
        assert a.cells.keys() == b.cells.keys()
    first = (tmp_path / "s.gz").read_bytes()
    recording.write(tmp_path / "s.gz", read)
    assert (tmp_path / "s.gz").read_bytes() == first


@pytest.mark.parametrize("content", [b"", b"plain text", b"\x1f\x8b broken"])
def test_damaged_recordings_say_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"s\.gz"):
        recording.read(tmp_path / "s.gz")


def test_a_process_is_summed_up_from_its_turns() -> None:
    turns = [
        {"min": 5.0, "median": 7.0, "mean": 4e6, "calls": 2},
        {"min": 4.0, "median": 9.0, "mean": 5e6, "calls": 2},  # 18 ms: a sample
        {"min": 9.0, "median": 9.0, "mean": 1e6, "calls": 1},  # too little for another
    ]
    assert recording.process(turns) == Process(4.0, 9.0, (4_500_000.0,))
    assert recording.process(turns[2:]) == Process(9.0, 9.0, (1_000_000.0,))


def test_resampled_runs_of_this_gate_find_the_plant_and_nothing_else() -> None:
    same, planted = pairs(30), pairs(20, 1.05, seed=9)
    rng = random.Random(1)
    for _ in range(10):
        assert set(resampling.gate_run(same, [], None, Policy(), rng).verdicts.values()) == {"same"}
        verdicts = resampling.gate_run(same, planted, "cell3", Policy(), rng).verdicts
        assert verdicts.pop("cell3") == "slower"
        assert set(verdicts.values()) == {"same"}


def test_a_resampled_run_ends_when_its_time_is_used_up() -> None:
    same, planted = pairs(30), pairs(20, 1.05, seed=9)
    whole = resampling.gate_run(same, planted, "cell3", Policy(), random.Random(1))
    assert whole.pairs >= 9  # a fair coin's evidence: log2 of five cells / 1%
    assert whole.seconds > whole.pairs * 3.0  # imports, as recorded
    cut = resampling.gate_run(same, planted, "cell3", Policy(max_seconds=whole.seconds / 2), random.Random(1))
    assert cut.verdicts["cell3"] == "inconclusive"
    assert cut.pairs < whole.pairs
    assert cut.seconds <= whole.seconds / 2


def test_rules_on_one_process_a_side_cry_wolf_where_processes_differ() -> None:
    same, rng = pairs(40), random.Random(2)
    fired = sum(bool(resampling.rival_run(RULES[0], same, [], None, rng)) for _ in range(100))
    assert fired > 80


def test_rivals_agree_with_hand_made_cases() -> None:
    slow = [Process(1.06, 1.06, (1.06,) * 6)] * 7
    base = [Process(1.0, 1.0, (1.0,) * 6)] * 7
    fires = {rule.name: rule.fires(base[: rule.processes], slow[: rule.processes]) for rule in RULES}
    assert [name for name, fired in fires.items() if fired] == [
        "pytest-benchmark compare-fail=min:5%",
        "pytest-benchmark compare-fail=mean:5%",
        "Mann-Whitney, 7+7 process medians, p<0.05",
        "Mann-Whitney, 7+7 process medians, p<0.01",
    ]
    assert not any(rule.fires(base[: rule.processes], base[: rule.processes]) for rule in RULES)
    much = [Process(1.2, 1.2, (1.2,) * 6)] * 7
    assert all(rule.fires(base[: rule.processes], much[: rule.processes]) for rule in RULES)
    assert rules.RULES[4].processes == 2, "asv runs two rounds of processes"


@pytest.mark.slow
def test_the_table_is_computed_and_reproducible() -> None:
    text = page.render(study(), 40)
    assert text == page.render(study(), 40)
    assert "30 pairs of identical sides, 20 at 1.05×, 20 at 1.10×" in text
    assert "| **this gate** | 0.00% (bound 7.22%) | 0.00% | 100.00% | 100.00% |" in text
    assert text.count("| pytest-benchmark compare-fail") == 4
    assert "| identical code, both cores kept busy for a part | 1 | 0 | 95.0% |  | 1 | 290 (at most 290) |" in text
    assert "| one more ATen call | 82 | 82 |" in text


@pytest.mark.slow
def test_quiet_and_busy_recordings_are_told_apart() -> None:
    made = study()
    made.pairs += [Recorded(p.factor, p.cells, p.turns, 5.0) for p in pairs(10, seed=4)]
    text = page.render(made, 20)
    assert "**Nobody else at work**: load average 0.5 to 0.5; 5 timed cells; 30 pairs" in text
    assert "**Others at work on the same cores**: load average 5.0 to 5.0; 5 timed cells; 10 pairs" in text
    quiet, busy = text.split("**Others at work")
    assert "scaled: too few" not in quiet
    assert "Plants at 1.05× and 1.10× are side B of identical pairs, scaled: too few are recorded" in busy
    assert "| **this gate** | 0.00% (bound 13.91%) | 0.00% | 100.00% | 100.00% |" in busy


def test_a_slower_method_alarms_rightly_in_each_of_its_cells() -> None:
    found = dict.fromkeys(("hvp/a/mlp/8", "hvp/a/loss/4", "hvp/b/mlp/8"), "slower")
    assert WholeRun(1.1, "hvp/a/mlp/8", 0.0, found, 13, 90.0).alarms == ["hvp/b/mlp/8"]
    assert len(WholeRun(1.0, "", 0.0, found, 13, 90.0).alarms) == 3


def test_nothing_recorded_is_no_table() -> None:
    with pytest.raises(ValueError, match="study record"):
        page.render(Study("m"), 10)


def test_the_table_goes_between_its_marks(tmp_path: Path) -> None:
    guide = tmp_path / "gate.md"
    guide.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        page.write_between(guide, "new")
    assert guide.read_text(encoding="utf-8") == f"before\n{page.BEGIN}\n\nnew\n\n{page.END}\nafter\n"
    guide.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match="marks"):
        page.write_between(guide, "new")


def test_the_guide_has_the_marks() -> None:
    text = (Path(__file__).parents[2] / page.GUIDE).read_text(encoding="utf-8")
    assert text.index(page.BEGIN) < text.index(page.END)


def test_a_planted_slowdown_is_of_the_planted_kernel_and_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0]

    def passes(ns: int = 50) -> int:
        clock[0] += ns
        return clock[0]

    inner = SimpleNamespace(name="inner", function=lambda: passes(1_000_000))
    outer = SimpleNamespace(name="outer", function=lambda: inner.function())
    operators = [SimpleNamespace(name=m.name, methods={"m": m}) for m in (inner, outer)]
    for method in (inner, outer):
        method.name = "m"
    monkeypatch.setattr(hograd_core, "operators", lambda: {o.name: o for o in operators})
    monkeypatch.setattr(time, "perf_counter_ns", passes)
    monkeypatch.setattr(time, "thread_time_ns", passes)
    monkeypatch.setenv("HOGRAD_PLANT", "inner/m")
    monkeypatch.setenv("HOGRAD_PLANT_FACTOR", "1.05")
    runpy.run_path(str(Path(__file__).parents[1] / "recipes" / "slower.py"))
    for method, factor in ((inner, 1.05), (outer, 1.0)):  # outer is not slowed by the inner that it calls
        start = clock[0]
        method.function()
        assert (clock[0] - start) / 1_000_000 == pytest.approx(factor, abs=0.002)


def test_clopper_pearson_agrees_with_known_values() -> None:
    assert page.clopper_pearson_upper(0, 299) == pytest.approx(1 - 0.05 ** (1 / 299))
    assert page.clopper_pearson_upper(2, 50) == pytest.approx(0.120614, abs=1e-5)  # R: binom.test, one-sided
    assert page.clopper_pearson_upper(7, 7) == 1.0
    with pytest.raises(ValueError, match="3"):
        page.clopper_pearson_upper(3, 2)

"""Exact metrics and results of fake sides: against a baseline, and side against side."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gate_fakes as fakes
import pytest
from gate_fakes import FEW, MS, NAMES, behaviour, compare, kinds, twin
from hograd_bench.engine import EngineError
from hograd_bench.gate import run
from hograd_bench.gate.exact import baseline, comparison, measuring
from hograd_bench.gate.outcome import Exit, NotComparableError
from hograd_bench.gate.revisions.sides import Twin


def against_baseline(side: Any, cells: Any, folder: Path, **options: Any) -> Any:
    return comparison.against_baseline(side, cells, folder, engine=fakes.Engine(), **options)


def test_growth_is_found_on_both_sides_measured_here(tmp_path: Path) -> None:
    outcome, _ = compare(tmp_path, behaviour(), behaviour(one={"peak": 104}), timing=False)
    (found,) = outcome.findings
    assert (found.kind, found.cell, found.metric, found.before, found.after) == (
        "growth",
        "one",
        "peak_bytes",
        100,
        104,
    )
    assert "backward 1/mm +4" in found.text


@pytest.mark.slow
def test_the_baseline_gate_end_to_end(tmp_path: Path) -> None:
    cells, folder = [fakes.cell_id(n) for n in NAMES], tmp_path / "baselines"
    good, grown = fakes.side(tmp_path, "good", behaviour()), fakes.side(tmp_path, "grown", behaviour(two={"peak": 101}))
    first = against_baseline(good, cells, folder)
    assert first.exit == Exit.NOT_COMPARABLE
    assert "hograd gate --update" in first.findings[0].text
    assert "isa=FAKE" in first.findings[0].text
    assert against_baseline(good, cells, folder, update=True).exit == Exit.PASS
    assert against_baseline(good, cells, folder).exit == Exit.PASS
    failed = against_baseline(grown, cells, folder)
    assert failed.exit == Exit.REGRESSION
    assert [f.cell for f in failed.findings] == [fakes.cell_id("two")]
    assert against_baseline(grown, cells, folder, tolerance={"peak_bytes": 0.01}).exit == Exit.PASS


@pytest.mark.slow
def test_part_of_a_baseline_is_compared_and_written_by_itself(tmp_path: Path) -> None:
    side = fakes.side(tmp_path, "a", behaviour())
    grown = fakes.side(tmp_path, "b", behaviour(two={"peak": 101}))
    folder, cells = tmp_path / "baselines", [fakes.cell_id(n) for n in NAMES]
    only: Any = {"concerns": lambda cell: cell == cells[0]}
    against_baseline(side, cells, folder, update=True)
    (file,) = folder.glob("*/rows.jsonl")
    whole = file.read_text(encoding="utf-8")
    one = against_baseline(grown, cells[:1], folder, **only)
    assert (one.exit, one.counted, one.findings) == (Exit.PASS, 1, [])
    assert against_baseline(grown, cells[:1], folder, update=True, **only).exit == Exit.PASS
    assert file.read_text(encoding="utf-8") == whole, "the others are as they were"
    gone = whole.replace("/one/", "/gone/").replace('"method":"one"', '"method":"gone"')
    file.write_text(gone, encoding="utf-8")
    none = against_baseline(side, cells[:1], folder, **only)
    assert none.exit == Exit.NOT_COMPARABLE
    assert "has none of these cells; --update adds them" in none.findings[0].text


@pytest.mark.slow
def test_a_damaged_baseline_can_be_written_anew_as_a_whole_only(tmp_path: Path) -> None:
    side, folder, cell = fakes.side(tmp_path, "a", behaviour()), tmp_path / "baselines", fakes.cell_id("one")
    against_baseline(side, [cell], folder, update=True)
    (file,) = folder.glob("*/rows.jsonl")
    file.write_text("damaged", encoding="utf-8")
    for options in ({}, {"update": True, "concerns": lambda cell: True}):
        with pytest.raises(baseline.BaselineError):
            against_baseline(side, [cell], folder, **options)
    assert against_baseline(side, [cell], folder, update=True).exit == Exit.PASS
    assert against_baseline(side, [cell], folder).counted == 1


def test_results_are_compared_where_only_exact_metrics_are(tmp_path: Path) -> None:
    outcome, _ = compare(tmp_path, behaviour(), behaviour(two={"result": [1.0, 3.0]}), timing=False)
    assert outcome.exit == Exit.REGRESSION
    assert [(f.kind, f.cell, f.metric) for f in outcome.findings] == [("wrong", "two", "result")]


def test_an_older_base_that_leaves_no_results_accuses_nobody(tmp_path: Path) -> None:
    outcome, _ = compare(tmp_path, behaviour(two={"old": True, "result": [7.0, 7.0]}), behaviour(), timing=False)
    assert outcome.exit == Exit.PASS


@pytest.mark.slow
def test_cells_of_the_base_that_the_head_dropped_are_measured_on_both(tmp_path: Path) -> None:
    """A method that lost an order is broken; a cell that only moved elsewhere in the preset is compared as before."""
    a = {**behaviour(), "lost": {"ns": MS}, "moved": {"ns": MS}, "grown": {"ns": MS}}
    b = {**behaviour(), "lost": {"ns": MS, "status": "unsupported"}, "moved": {"ns": MS},
         "grown": {"ns": MS, "peak": 101}}  # fmt: skip
    left, right = fakes.side(tmp_path, "a", a), fakes.side(tmp_path, "b", b)
    gate = Path(left.roots[0]) / "bench" / "hograd_bench" / "gate"
    (gate / "preset.py").write_text(
        f"class C:\n  def __init__(self, id): self.id = id\n"
        f"def cells(): return [C(i) for i in {[fakes.cell_id(n) for n in a]!r}]\n",
        encoding="utf-8",
    )
    cells = [Twin(fakes.cell_id(n), fakes.cell_id(n), fakes.cell_id(n)) for n in NAMES]
    outcome, _ = run.sides_against(left, right, cells, FEW, seed=1, engine=fakes.Engine(), timing=False, whole=True)
    assert kinds(outcome) == {fakes.cell_id("lost"): "broken", fakes.cell_id("grown"): "growth"}
    assert outcome.counted == 5
    part, _ = run.sides_against(left, right, cells, FEW, seed=1, engine=fakes.Engine(), timing=False)
    assert (part.exit, part.counted) == (Exit.PASS, 3)
    (gate / "preset.py").write_text("def cells(): raise KeyError('mlp')\n", encoding="utf-8")
    unlisted, _ = run.sides_against(left, right, cells, FEW, seed=1, engine=fakes.Engine(), timing=False, whole=True)
    (found,) = unlisted.findings
    assert (found.level, unlisted.counted) == ("warning", 3)
    assert "a cannot list its gate's cells (KeyError: 'mlp')" in found.text


@pytest.mark.slow
def test_a_method_that_only_the_base_has_is_missing(tmp_path: Path) -> None:
    left, right = fakes.side(tmp_path, "a", behaviour()), fakes.side(tmp_path, "b", behaviour())
    for side, methods in ((left, "one two lost three"), (right, "one two three fresh")):
        core = Path(side.roots[0]) / "hograd_core" / "__init__.py"
        core.write_text(
            f"class op:\n  name = 'op'\n  methods = {methods.split()!r}\ndef operators(): return {{'op': op}}\n",
            encoding="utf-8",
        )
    twins_of = [twin(n) for n in NAMES]
    whole, _ = run.sides_against(left, right, twins_of, FEW, seed=1, engine=fakes.Engine(), timing=False, whole=True)
    assert [(f.kind, f.cell) for f in whole.findings] == [("missing", "op/lost")]
    assert "renamed to op/fresh?" in whole.findings[0].text
    part, _ = run.sides_against(left, right, twins_of, FEW, seed=1, engine=fakes.Engine(), timing=False)
    assert part.exit == Exit.PASS


def measured(side: Any, folder: Path, engine: Any = None) -> dict[str, Any]:
    cells = [fakes.cell_id(n) for n in NAMES]
    wanted = measuring.Wanted(side, measuring.describe(side), cells, folder)
    return measuring.measure([wanted], engine=engine or fakes.Engine())[0]


def test_what_cannot_start_is_not_comparable(tmp_path: Path) -> None:
    class Broken(fakes.Engine):
        def run(self, tasks: Any, wanted: Any = None) -> Any:
            raise EngineError("a process did not start within 180 s")

    with pytest.raises(NotComparableError, match="a cannot be measured: a process did not start"):
        measured(fakes.side(tmp_path, "a", behaviour()), tmp_path, Broken())


def test_what_is_no_interpreter_is_named(tmp_path: Path) -> None:
    echo = replace(fakes.side(tmp_path, "a", behaviour()), python=shutil.which("echo") or "")
    with pytest.raises(NotComparableError, match=r"no line of JSON; is .*echo a Python interpreter\?"):
        measuring.describe(echo)


def test_cells_that_a_side_has_not_are_not_asked_of_it(tmp_path: Path) -> None:
    side = fakes.side(tmp_path, "a", {"one": {"ns": MS}})
    assert [row["cell"] for row in measured(side, tmp_path).values()] == [fakes.cell_id("one")]


def test_a_crash_while_counting_costs_one_cell(tmp_path: Path) -> None:
    outcome, _ = compare(tmp_path, behaviour(), behaviour(two={"status": "crashed"}), timing=False)
    assert (kinds(outcome), outcome.counted) == ({"two": "broken"}, 2)


def test_a_side_that_lacks_a_plugin_is_not_comparable(tmp_path: Path) -> None:
    side = fakes.side(tmp_path, "a", behaviour(), ("plug.py",))
    (tmp_path / "a" / "plug.py").write_text(
        "import hograd_core\nhograd_core.op.methods.append('mine')\n", encoding="utf-8"
    )
    assert "op/mine" in measuring.describe(side).methods
    lacking = fakes.side(tmp_path, "b", behaviour(), ("plug.py",))
    with pytest.raises(NotComparableError, match=r"b cannot be measured: plugin plug\.py does not exist"):
        measuring.describe(lacking)

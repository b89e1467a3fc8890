"""Exact metrics and results, counted in workers on fake sides: against a baseline, and side against side."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gate_fakes as fakes
import pytest
from gate_fakes import FEW, MS, NAMES, behaviour, compare, kinds, twin
from hograd_bench.gate import run
from hograd_bench.gate.exact import baseline, counting
from hograd_bench.gate.outcome import Exit, NotComparableError
from hograd_bench.gate.twins.loop import Twin


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
    assert "backward_1/mm +4" in found.text


def test_the_baseline_gate_end_to_end(tmp_path: Path) -> None:
    cells, folder = [fakes.cell_id(n) for n in NAMES], tmp_path / "baselines"
    good, grown = fakes.side(tmp_path, "good", behaviour()), fakes.side(tmp_path, "grown", behaviour(two={"peak": 101}))
    first = run.against_baseline(good, cells, folder)
    assert first.exit == Exit.NOT_COMPARABLE
    assert "hograd gate --update" in first.findings[0].text
    assert "isa=FAKE" in first.findings[0].text
    assert run.against_baseline(good, cells, folder, update=True).exit == Exit.PASS
    assert run.against_baseline(good, cells, folder).exit == Exit.PASS
    failed = run.against_baseline(grown, cells, folder)
    assert failed.exit == Exit.REGRESSION
    assert [f.cell for f in failed.findings] == [fakes.cell_id("two")]
    assert run.against_baseline(grown, cells, folder, tolerance={"peak_bytes": 0.01}).exit == Exit.PASS


def test_part_of_a_baseline_is_compared_and_written_by_itself(tmp_path: Path) -> None:
    side = fakes.side(tmp_path, "a", behaviour())
    grown = fakes.side(tmp_path, "b", behaviour(two={"peak": 101}))
    folder, cells = tmp_path / "baselines", [fakes.cell_id(n) for n in NAMES]
    only: Any = {"concerns": lambda cell: cell == cells[0]}
    run.against_baseline(side, cells, folder, update=True)
    (file,) = folder.iterdir()
    whole = file.read_text(encoding="utf-8")
    one = run.against_baseline(grown, cells[:1], folder, **only)
    assert (one.exit, one.counted, one.findings) == (Exit.PASS, 1, [])
    assert run.against_baseline(grown, cells[:1], folder, update=True, **only).exit == Exit.PASS
    assert file.read_text(encoding="utf-8") == whole, "the others are as they were"
    file.write_text(whole.replace(cells[0], cells[0].replace("/one/", "/gone/")), encoding="utf-8")
    none = run.against_baseline(side, cells[:1], folder, **only)
    assert none.exit == Exit.NOT_COMPARABLE
    assert "has none of these cells; --update adds them" in none.findings[0].text


def test_a_damaged_baseline_can_be_written_anew_as_a_whole_only(tmp_path: Path) -> None:
    side, folder, cell = fakes.side(tmp_path, "a", behaviour()), tmp_path / "baselines", fakes.cell_id("one")
    run.against_baseline(side, [cell], folder, update=True)
    (file,) = folder.iterdir()
    file.write_text("damaged", encoding="utf-8")
    for options in ({}, {"update": True, "concerns": lambda cell: True}):
        with pytest.raises(baseline.BaselineError):
            run.against_baseline(side, [cell], folder, **options)
    assert run.against_baseline(side, [cell], folder, update=True).exit == Exit.PASS
    assert run.against_baseline(side, [cell], folder).counted == 1


def test_results_are_compared_where_only_exact_metrics_are(tmp_path: Path) -> None:
    outcome, _ = compare(tmp_path, behaviour(), behaviour(two={"result": [1.0, 3.0]}), timing=False)
    assert outcome.exit == Exit.REGRESSION
    assert [(f.kind, f.cell, f.metric) for f in outcome.findings] == [("wrong", "two", "result")]


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        ({"remembers": True}, "after its arguments were halved in place, results differ"),
        ({"wrong_from": 2}, "a later call with the same arguments gives another result"),
    ],
)
def test_a_kernel_that_is_right_at_first_and_wrong_later_is_wrong(
    tmp_path: Path, plant: dict[str, Any], says: str
) -> None:
    outcome, _ = compare(tmp_path, behaviour(), behaviour(two=plant), timing=False)
    assert [(f.kind, f.cell) for f in outcome.findings] == [("wrong", "two")]
    assert says in outcome.findings[0].text


def test_an_older_base_that_shows_no_arguments_accuses_nobody(tmp_path: Path) -> None:
    outcome, _ = compare(tmp_path, behaviour(two={"old": True}), behaviour(), timing=False)
    assert outcome.exit == Exit.PASS


def test_cells_of_the_base_that_the_head_dropped_are_measured_on_both(tmp_path: Path) -> None:
    """A method that lost an order is broken; a cell that only moved elsewhere in the preset is compared as before."""
    a = {**behaviour(), "lost": {"ns": MS}, "moved": {"ns": MS}, "grown": {"ns": MS}}
    b = {**behaviour(), "lost": {"ns": MS, "status": "unsupported"}, "moved": {"ns": MS},
         "grown": {"ns": MS, "peak": 101}}  # fmt: skip
    left, right = fakes.side(tmp_path, "a", a), fakes.side(tmp_path, "b", b)
    gate = Path(left.roots[0]) / "bench" / "hograd_bench" / "gate"
    gate.mkdir()
    (gate / "__init__.py").write_text("", encoding="utf-8")
    (gate / "preset.py").write_text(
        f"class C:\n  def __init__(self, id): self.id = id\n"
        f"def cells(): return [C(i) for i in {[fakes.cell_id(n) for n in a]!r}]\n",
        encoding="utf-8",
    )
    cells = [Twin(fakes.cell_id(n), fakes.cell_id(n), fakes.cell_id(n)) for n in NAMES]
    outcome, _ = run.sides_against(left, right, cells, FEW, seed=1, timing=False, whole=True)
    assert kinds(outcome) == {fakes.cell_id("lost"): "broken", fakes.cell_id("grown"): "growth"}
    assert outcome.counted == 5
    part, _ = run.sides_against(left, right, cells, FEW, seed=1, timing=False)
    assert (part.exit, part.counted) == (Exit.PASS, 3)
    (gate / "preset.py").write_text("def cells(): raise KeyError('mlp')\n", encoding="utf-8")
    unlisted, _ = run.sides_against(left, right, cells, FEW, seed=1, timing=False, whole=True)
    (found,) = unlisted.findings
    assert (found.level, unlisted.counted) == ("warning", 3)
    assert "a cannot list its gate's cells (KeyError: 'mlp')" in found.text


def test_a_method_that_only_the_base_has_is_missing(tmp_path: Path) -> None:
    left, right = fakes.side(tmp_path, "a", behaviour()), fakes.side(tmp_path, "b", behaviour())
    for side, methods in ((left, "one two lost three"), (right, "one two three fresh")):
        core = Path(side.roots[0]) / "hograd_core" / "__init__.py"
        core.write_text(
            f"class op:\n  name = 'op'\n  methods = {methods.split()!r}\ndef operators(): return {{'op': op}}\n",
            encoding="utf-8",
        )
    twins_of = [twin(n) for n in NAMES]
    whole, _ = run.sides_against(left, right, twins_of, FEW, seed=1, timing=False, whole=True)
    assert [(f.kind, f.cell) for f in whole.findings] == [("missing", "op/lost")]
    assert "renamed to op/fresh?" in whole.findings[0].text
    part, _ = run.sides_against(left, right, twins_of, FEW, seed=1, timing=False)
    assert part.exit == Exit.PASS


def test_counting_ends_soon_after_it_is_stopped(tmp_path: Path) -> None:
    side, asked = fakes.side(tmp_path, "a", behaviour()), []
    found = counting.count(
        side, [fakes.cell_id(n) for n in NAMES], tmp_path, stop=lambda: asked.append(1) or len(asked) > 2
    )
    assert len(found.entries) == 1


def test_what_is_no_interpreter_is_named(tmp_path: Path) -> None:
    echo = replace(fakes.side(tmp_path, "a", behaviour()), python=shutil.which("echo") or "")
    with pytest.raises(NotComparableError, match=r"echo, no answer of a worker; is it a Python interpreter\?"):
        counting.count(echo, [fakes.cell_id("one")], tmp_path)


def test_a_crash_while_counting_costs_one_cell(tmp_path: Path) -> None:
    side = fakes.side(tmp_path, "a", behaviour(two={"status": "crash"}))
    entries = counting.count(side, [fakes.cell_id(n) for n in NAMES], tmp_path).entries
    assert [e.status for e in entries.values()] == ["ok", "crashed", "ok"]


def test_plugins_are_loaded_by_the_worker(tmp_path: Path) -> None:
    plugin = "import os, hograd_bench.metrics as m\nfor does in m.BEHAVIOUR.values(): does['peak'] = 7\n"
    side = fakes.side(tmp_path, "a", behaviour(), ("plug.py",))
    (tmp_path / "a" / "plug.py").write_text(plugin, encoding="utf-8")
    entries = counting.count(side, [fakes.cell_id("one")], tmp_path).entries
    assert entries[fakes.cell_id("one")].metrics == {"peak_bytes": 7}
    lacking = fakes.side(tmp_path, "b", behaviour(), ("plug.py",))
    with pytest.raises(NotComparableError, match=r"plug\.py does not exist"):
        counting.count(lacking, [fakes.cell_id("one")], tmp_path)

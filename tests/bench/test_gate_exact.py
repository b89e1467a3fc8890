"""The exact gate: comparison rule, baselines as runs. No kernel runs here."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hograd_bench import metrics, schema, store
from hograd_bench.cells import Cell
from hograd_bench.gate import agreement
from hograd_bench.gate.exact import baseline, findings
from hograd_bench.gate.exact.baseline import BaselineError, Key
from hograd_bench.gate.outcome import Finding
from hograd_bench.schema import Row
from hograd_bench.store import ENVIRONMENT, ROWS
from hypothesis import given
from hypothesis import strategies as st

RECORDS = {name: record for name, record in metrics.metrics().items() if record.exact}
CELL = Cell("derivative_tensor", "rows", "mlp", 6, 2, 2).id
OTHER = CELL.replace("rows", "columns")
KEY = Key("2.13.0+cpu", "x86_64", "AVX2")
OPS = {"aten.mm": 3, "aten.tanh": 4}
PEAK = {("forward", "aten::tanh"): 600, ("backward 1", "aten::mm"): 400}


def row(
    status: str = "ok",
    metrics: dict[str, Any] | None = None,
    ops: dict[str, int] = OPS,
    peak: dict[tuple[str, str], int] = PEAK,
    *,
    cell: str = CELL,
    reason: str = "because",
) -> Row:
    held = [{"phase": phase, "op": op, "bytes": size} for (phase, op), size in peak.items()]
    return schema.row(
        Cell.parse(cell), status, None if status == "ok" else reason, metrics=metrics or {},
        details={"aten_by_op": ops, "peak_attribution": held},
    )  # fmt: skip


def entry(status: str = "ok", **metrics: int) -> Row:
    return row(status, metrics)


BASE = entry(peak_bytes=1000, aten_calls=7)


def compare(base: Any, head: Any, tolerance: Any = None, *, stored: bool = True) -> list[Finding]:
    return findings.findings(base, head, RECORDS, tolerance, stored=stored)


def kinds(findings: list[Finding]) -> list[str]:
    return [f.kind for f in findings]


def test_the_same_is_silent() -> None:
    assert compare({CELL: BASE}, {CELL: BASE}) == []


def test_one_byte_of_growth_fails_and_names_phase_and_op() -> None:
    head = row("ok", {"peak_bytes": 1001, "aten_calls": 7}, peak={**PEAK, ("backward 1", "aten::mm"): 401})
    (found,) = compare({CELL: BASE}, {CELL: head})
    assert (found.kind, found.metric, found.before, found.after) == ("growth", "peak_bytes", 1000, 1001)
    assert "1,000 -> 1,001 (+1, +0.10%)" in found.text
    assert "backward 1/mm +1" in found.text
    assert found.level == "error"


def test_one_more_call_names_the_op() -> None:
    head = row("ok", {"peak_bytes": 1000, "aten_calls": 8}, {**OPS, "aten.neg": 1})
    (found,) = compare({CELL: BASE}, {CELL: head})
    assert found.kind == "growth"
    assert "dispatched: neg +1" in found.text


def test_improvements_ask_to_be_banked() -> None:
    (found,) = compare({CELL: BASE}, {CELL: entry(peak_bytes=900, aten_calls=7)})
    assert found.kind == "improvement"
    assert "--update" in found.text
    (unstored,) = compare({CELL: BASE}, {CELL: entry(peak_bytes=900, aten_calls=7)}, stored=False)
    assert "--update" not in unstored.text


def test_tolerance_is_per_metric_and_zero_by_default() -> None:
    head = {CELL: entry(peak_bytes=1010, aten_calls=8)}
    assert kinds(compare({CELL: BASE}, head)) == ["growth", "growth"]
    assert [f.metric for f in compare({CELL: BASE}, head, {"peak_bytes": 0.01})] == ["aten_calls"]
    assert kinds(compare({CELL: BASE}, {CELL: entry(peak_bytes=1011, aten_calls=7)}, {"peak_bytes": 0.01}))


def test_growth_from_zero_is_growth() -> None:
    (found,) = compare({CELL: entry(retained_bytes=0)}, {CELL: entry(retained_bytes=4)})
    assert found.kind == "growth"
    assert "0 -> 4" in found.text


def test_what_is_gone_fails() -> None:
    assert kinds(compare({CELL: BASE}, {})) == ["missing"]
    (metric,) = compare({CELL: BASE}, {CELL: entry(peak_bytes=1000)})
    assert (metric.kind, metric.metric) == ("missing", "aten_calls")


def test_a_renamed_cell_fails_and_says_so() -> None:
    found = compare({CELL: BASE}, {CELL.replace("rows", "lines"): BASE})
    assert kinds(found) == ["missing", "new"]
    assert "renamed to derivative_tensor/lines" in found[0].text


@pytest.mark.parametrize("status", ["unsupported", "failed", "crashed"])
def test_a_cell_that_runs_no_more_fails(status: str) -> None:
    (found,) = compare({CELL: BASE}, {CELL: row(status, reason="no batching rule")})
    assert (found.kind, found.level) == ("broken", "error")
    assert "no batching rule" in found.text


def test_a_cell_that_never_ran_is_no_news() -> None:
    assert compare({CELL: entry("unsupported")}, {CELL: entry("unsupported")}) == []
    assert kinds(compare({CELL: entry("unsupported")}, {CELL: entry("failed")})) == ["broken"]
    assert kinds(compare({CELL: entry("unsupported")}, {CELL: BASE})) == ["improvement"]


def test_new_cells_are_listed_and_do_not_fail() -> None:
    (found,) = compare({}, {CELL: BASE})
    assert (found.kind, found.level) == ("new", "notice")


def rendered(folder: Path, *rows: Row) -> str:
    return (baseline.save(folder, KEY, rows, RECORDS) / ROWS).read_text(encoding="utf-8")


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
TABLES = st.dictionaries(NAMES, st.integers(0, 2**62), max_size=4)
MADE = st.builds(
    lambda status, metrics, ops, peak, n: row(
        status, metrics, ops, {("forward", op): size for op, size in peak.items()}, cell=CELL.replace("n=6", f"n={n}")
    ),
    st.sampled_from(["ok", "failed", "unsupported"]),
    st.dictionaries(st.sampled_from(sorted(RECORDS)), st.integers(0, 2**62), min_size=1),
    TABLES, TABLES, st.integers(1, 9),
)  # fmt: skip


@pytest.mark.slow
@given(st.lists(MADE, min_size=1, max_size=5, unique_by=lambda r: r["cell"]))
def test_baselines_survive_the_round_trip(made: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as name:
        text = rendered(Path(name), *made)
        read = baseline.load(Path(name), KEY)
        assert read is not None
        assert {c: r["metrics"] for c, r in read.items()} == {r["cell"]: r["metrics"] for r in made}
        assert {c: (r["status"], r["details"].get("aten_by_op", {})) for c, r in read.items()} == {
            r["cell"]: (r["status"], r["details"]["aten_by_op"]) for r in made
        }
        assert all(baseline.peak_by_op(read[r["cell"]]["details"]) == baseline.peak_by_op(r["details"]) for r in made)
        assert rendered(Path(name), *reversed(made)) == text
        assert rendered(Path(name), *read.values()) == text


@pytest.mark.slow
@given(st.data())
def test_a_baseline_that_was_cut_short_is_damage_wherever_it_was_cut(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        text = rendered(Path(name), BASE, {**BASE, "cell": OTHER, "method": "columns"})
        file = Path(name, KEY.folder, ROWS)
        file.write_text(text[: data.draw(st.integers(0, len(text) - 2))], encoding="utf-8")
        with pytest.raises(BaselineError, match=r"rows\.jsonl.*restore it from git, or --update"):
            baseline.load(Path(name), KEY)


def test_a_baseline_without_its_last_line_says_so(tmp_path: Path) -> None:
    lines = rendered(tmp_path, BASE, {**BASE, "cell": OTHER, "method": "columns"}).splitlines()
    (tmp_path / KEY.folder / ROWS).write_text(lines[0] + "\n", encoding="utf-8")
    with pytest.raises(BaselineError, match=r"rows\.jsonl:1: ends after 1 cells, expected 2.*the file was cut short"):
        baseline.load(tmp_path, KEY)


def test_a_change_is_one_line_of_diff_and_holds_no_time(tmp_path: Path) -> None:
    cells = [CELL.replace("n=6", f"n={i}") for i in range(1, 21)]
    random.Random(1).shuffle(cells)
    made = [{**row("ok", {"peak_bytes": 1000, "aten_calls": 7}, cell=cell), "started": "now"} for cell in cells]
    before = rendered(tmp_path, *made).splitlines()
    changed = row("ok", {"peak_bytes": 1, "aten_calls": 7, "seconds_min": 0.5}, cell=cells[3])
    after = rendered(tmp_path, *made[:3], {**changed, "wall_seconds": 9.0}, *made[4:]).splitlines()
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert before == sorted(before)
    assert not [line for line in after if "now" in line or "seconds_min" in line or "9.0" in line]


def line(**changed: Any) -> str:
    return json.dumps({**baseline.kept(BASE, RECORDS, KEY.folder), **changed}) + "\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("\n", "holds no cell"),
        ("nonsense\n", "f:1: not JSON"),
        (line() + f"{CELL}\n", "f:2: not JSON"),
        (line(metrics={"peak_bytes": "many"}), "metrics.'peak_bytes'.: got 'many', expected an integer from 0"),
        (line() + line(), "f:2.*stands here twice; a merge gone wrong"),
        (line(lists={}), "'lists': not a field"),
        (line() + "<<<<<<< HEAD\n" + line(), "f:2"),
        (line(metrics={"aten_calls": 1.5}), "got 1.5, expected an integer"),
        (line(metrics={"aten_calls": True}), "got True, expected an integer"),
        (line(metrics={"aten_calls": -5}), "got -5, expected"),
        (line(metrics={"aten_calls": 10**30}), "f:1: metrics"),
        (line()[:-2] + ',"metrics":{"aten_calls":' + "9" * 5000 + "}}", "f:1: not JSON: Exceeds the limit"),
        (line(details={"aten_by_op": {"mm": -1.5}}), "f:1: details: expected tables of integers"),
        (line(details={"peak_attribution": [{"op": "mm"}]}), "f:1: details: expected tables of integers"),
        (line(status="okk"), "status: got 'okk', expected one of ok, unverified"),
        (line(metrics={}), "is ok and has no metrics"),
    ],
)
def test_damage_names_file_and_line(text: str, says: str) -> None:
    with pytest.raises(BaselineError, match=says) as found:
        baseline.parse(text, "f")
    assert "restore it from git, or --update" in str(found.value)


def test_a_file_under_the_name_of_another_key_is_damage(tmp_path: Path) -> None:
    other = Key("2.12.1+cpu", "x86_64", "AVX2")
    baseline.save(tmp_path, other, [BASE], RECORDS).rename(tmp_path / KEY.folder)
    with pytest.raises(BaselineError, match=r"is not of this key.*torch\.version: 2\.12\.1\+cpu against 2\.13\.0\+cpu"):
        baseline.load(tmp_path, KEY)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "{ torn"])
def test_a_damaged_environment_is_named(tmp_path: Path, text: str) -> None:
    (baseline.save(tmp_path, KEY, [BASE], RECORDS) / ENVIRONMENT).write_text(text, encoding="utf-8")
    with pytest.raises(BaselineError, match=r"environment\.json: .*restore it from git, or --update"):
        baseline.load(tmp_path, KEY)


def test_a_baseline_is_a_run_like_any_other(tmp_path: Path) -> None:
    folder = baseline.save(tmp_path / "results" / "machine", KEY, [BASE], RECORDS)
    (read,) = store.read_rows(folder)
    assert read["metrics"] == {"aten_calls": 7, "peak_bytes": 1000}
    loaded = store.load(tmp_path / "results", strict=True).rows
    assert loaded["peak_bytes"].tolist() == [1000]
    environment_of = store.open_run(folder).environment
    assert environment_of["metrics"]["peak_bytes"]["kind"] == "bytes", "records travel with it"


def test_a_wrong_result_fails_whether_the_cell_is_known_or_new() -> None:
    wrong = row("wrong", reason="relative error 0.5 exceeds the tolerance")
    for base in ({CELL: BASE}, {}):
        (found,) = compare(base, {CELL: wrong})
        assert (found.kind, found.level, found.metric) == ("wrong", "error", "result")
        assert "relative error 0.5" in found.text


def test_files_by_key(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert baseline.load(folder, KEY) is None
    path = baseline.save(folder, KEY, [BASE], RECORDS)
    assert set(baseline.load(folder, KEY) or ()) == {CELL}
    assert baseline.load(folder, Key("2.12.1+cpu", "x86_64", "AVX2")) is None
    assert baseline.load(folder, Key("2.13.0+cpu", "x86_64", "AVX512")) is None
    assert baseline.available(folder) == [path.name]
    assert sorted(p.name for p in path.iterdir()) == [ENVIRONMENT, ROWS], "nothing half-written is left"
    (path / ROWS).write_bytes(b"\xff\xfe")
    with pytest.raises(BaselineError, match="not text"):
        baseline.load(folder, KEY)


def test_a_hostile_device_name_stays_a_file_name() -> None:
    key = Key("2.13", "x86_64", "AVX2", "../../etc/passwd GPU\n#")
    assert "/" not in key.folder
    assert "\n" not in str(key)


def test_a_side_that_is_proved_right_at_halved_arguments_need_not_agree_there(tmp_path: Path) -> None:
    """The base may be the one that remembers: a change that mends it is no regression."""
    said = {"shapes": [[2]], "file": "r", "halved_shapes": [[2]], "halved_file": "h", "allowed": 1e-3}
    folders = tmp_path / "a", tmp_path / "b"
    for folder, halved in zip(folders, ([1.0, 2.0], [0.5, 1.0]), strict=True):
        folder.mkdir()
        np.array([1.0, 2.0]).tofile(folder / "r")
        np.array(halved).tofile(folder / "h")
    known = {**BASE, "details": {"results": said}}
    proved = {**known, "metrics": {"follows_arguments": True}}
    of_peers = {k: v for k, v in said.items() if not k.startswith("halved")}
    peer = {**BASE, "details": {"results": of_peers}}
    without = {**BASE, "details": {"results": {**of_peers, "fails_halved": True}}}
    assert "halved" in str(agreement.between(known, known, folders))
    assert agreement.between(known, proved, folders) is None
    assert "fails on B" in str(agreement.between(known, without, folders))
    assert agreement.between(without, known, folders) is None
    assert agreement.between(known, peer, folders) is agreement.between(peer, known, folders) is None
    np.array([1.0, 2.1]).tofile(folders[1] / "r")
    assert "results differ" in str(agreement.between(known, proved, folders))

"""results/ out again, whatever became of it in between."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path

import pytest
from hograd_bench import schema, store
from hograd_bench.cells import Cell
from hograd_bench.metrics import Missing
from store_fakes import ENV, MACHINE, row


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def run(results: Path) -> store.Run:
    return store.create_run(results, ENV, "r1")


def test_rows_come_back_as_written(results: Path, run: store.Run) -> None:
    metrics = {"peak_bytes": 2**53, "noisy": True, "seconds_min": 0.125, "flops": Missing("not counted")}
    written = run.append(row(1, metrics=metrics, details={"samples_seconds": [0.5]}, numel=9, wall_seconds=2.0))
    run.append(row(2, "oom", "the kernel killed it", metrics={"throttling": "power cap"}))
    assert written["run"] == "r1"
    found = store.load(results)
    assert found.warnings == []
    assert found.environment(MACHINE, "r1") == run.environment
    first, second = (found.rows.loc[i] for i in (0, 1))
    assert int(first["peak_bytes"]) == 2**53
    assert (first["noisy"], first["seconds_min"], first["numel"], first["wall_seconds"]) == (1.0, 0.125, 9.0, 2.0)
    assert (first["cell"], first["n"], first["line"], first["status"]) == (written["cell"], 1, 1, "ok")
    assert (first["run"], first["machine"]) == ("r1", MACHINE)
    assert first["reason"] is None
    assert math.isnan(first["flops"])
    assert first["missing"] == {"flops": "not counted"}
    assert dict(first["details"]) == {"samples_seconds": [0.5]}
    assert (second["reason"], second["throttling"]) == ("the kernel killed it", "power cap")
    assert math.isnan(second["peak_bytes"])
    assert math.isnan(first["throttling"])
    assert store.metric_columns(found.rows) == ["flops", "noisy", "peak_bytes", "seconds_min", "throttling"]
    assert store.read_rows(run.path)[0] == written


def test_no_rows_give_an_empty_frame_with_its_columns(results: Path, run: store.Run) -> None:
    rows = store.load(results).rows
    assert len(rows) == 0
    assert {"cell", "operator", "n", "status", "missing", "details"} <= set(rows.columns)


def test_the_last_row_of_a_cell_counts(results: Path, run: store.Run) -> None:
    run.append(row(1, "timeout", "slow", metrics={"m": 1}))
    run.append(row(2, metrics={"m": 2}))
    run.append(row(1, metrics={"m": 3}))
    rows = store.load(results).rows
    assert rows["m"].tolist() == [2, 3]
    assert rows.index.tolist() == [0, 1]
    assert run.finished_cells() == {row(1)["cell"]: "ok", row(2)["cell"]: "ok"}
    assert [r["metrics"]["m"] for r in store.read_rows(run.path)] == [3, 2]


def test_the_same_cell_in_two_runs_is_two_rows(results: Path, run: store.Run) -> None:
    run.append(row(1))
    store.create_run(results, ENV, "r2").append(row(1))
    rows = store.load(results).rows
    assert rows["run"].tolist() == ["r1", "r2"]
    assert store.load(results, runs=["r2"]).rows["run"].tolist() == ["r2"]
    assert len(store.load(results, machines=["other"]).rows) == 0


def test_rows_of_another_text_of_a_problem_file_are_left_out(results: Path) -> None:
    """Of one's own problem "mlp", whose file was changed between runs; other problems and older rows stay."""
    other = schema.row(Cell("derivative_tensor", "rows", "sin_chain", 1), "ok", None)
    for name, text, n in (("r1", "old", 1), ("r2", "old", 2), ("r3", "new", 1), ("r4", "", 3)):
        plan = {"plan": {"problems": {"mlp": text}}} if text else {"plan": "damaged"}
        with store.create_run(results, {**ENV, **plan}, name) as run:
            run.append(row(n))
            run.append(other)
    found = store.load(results)
    kept = found.rows[found.rows["problem"] == "mlp"]
    assert list(zip(kept["run"], kept["n"], strict=True)) == [("r3", 1), ("r4", 3)]
    assert (found.rows["problem"] == "sin_chain").sum() == 4
    assert [str(w) for w in found.warnings] == [
        f"{MACHINE}/{run}/rows.jsonl: 1 row of mlp left out: the file that declares it has changed since"
        for run in ("r1", "r2")
    ]
    assert found.outdated == {(MACHINE, "r1"): 1, (MACHINE, "r2"): 1}
    assert len(store.load(results, runs=["r1"]).rows) == 2, "alone it is what it is"
    with store.create_run(results, {**ENV, "plan": {"problems": {"mlp": "newest", "sin_chain": "x"}}}, "r5") as run:
        run.append(other)
    assert len(store.load(results).rows) == len(found.rows) + 1, "a run that did not measure mlp replaces none of it"


def test_reference_results_count_only_where_pointed_at(results: Path, run: store.Run) -> None:
    run.append(row(1))
    reference = store.create_run(results / "reference", ENV, "ref")
    reference.append(row(1))
    assert store.load(results).rows["run"].tolist() == ["r1"]
    assert store.load(results / "reference").rows["run"].tolist() == ["ref"]
    assert store.load(results / MACHINE).rows["run"].tolist() == ["r1"]
    assert store.load(run.path).rows["machine"].tolist() == [MACHINE]


def test_folders_that_are_no_runs_are_passed_over(results: Path, run: store.Run) -> None:
    (results / MACHINE / ".r9.staging").mkdir()
    (results / MACHINE / ".r9.staging" / "environment.json").write_text("{}", encoding="utf-8")
    (results / "notes").mkdir()
    (results / "notes" / "readme.txt").write_text("hello", encoding="utf-8")
    (results / "loop").symlink_to(results)
    assert [f.name for f in store.run_folders(results)] == ["r1"]


def test_find_run(results: Path) -> None:
    early = store.create_run(results, {**ENV, "recorded": "2026-01-01T00:00:00"}, "b-early")
    late = store.create_run(results, {**ENV, "recorded": "2026-01-02T00:00:00"}, "a-late")
    assert store.find_run(results, "latest") == late.path
    assert store.find_run(results, "b-early") == store.find_run(results, "b-e") == early.path
    assert store.find_run(results, str(early.path)) == early.path
    for name, what in (("", "no such run"), ("c", "no such run")):
        with pytest.raises(store.StoreError, match=f"{what} in .*there: a-late, b-early"):
            store.find_run(results, name)
    store.create_run(results, ENV, "b-other")
    with pytest.raises(store.StoreError, match="several runs match"):
        store.find_run(results, "b-")


def test_an_absent_root_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(store.StoreError, match=r"nowhere: no such results folder; make one with `hograd run`"):
        store.load(tmp_path / "nowhere")
    with pytest.raises(store.StoreError, match="no run here"):
        store.open_run(tmp_path)


def test_details_are_read_when_looked_into(results: Path, run: store.Run) -> None:
    for n in range(1, 4):
        run.append(row(n, details={"samples_seconds": [n], "text": ',"details":{"x":1}}'}))
    rows = store.load(results).rows
    assert [d["samples_seconds"] for d in rows["details"]] == [[1], [2], [3]]
    assert rows["details"][1]["text"] == ',"details":{"x":1}}'
    assert "absent" not in rows["details"][0]
    assert "details" not in store.load(results, details=False).rows
    (run.path / "rows.jsonl").rename(run.path / "elsewhere")
    fresh = store.Details(run.path / "rows.jsonl", 1, 0, 10)
    with pytest.raises(FileNotFoundError):
        len(fresh)


def test_loading_parses_no_details(results: Path, run: store.Run) -> None:
    written = row(1, details={"samples_seconds": [1.5]})
    line = schema.encode({**written, "run": "r1"}).replace(b"[1.5]", b"[NaN]")
    (run.path / "rows.jsonl").write_bytes(line)
    found = store.load(results)
    assert (len(found.rows), found.warnings) == (1, [])
    with pytest.raises(schema.SchemaError, match=r"rows.jsonl:1: details: not JSON: NaN is not a JSON number"):
        found.rows["details"][0]["samples_seconds"]
    with pytest.raises(store.StoreError, match=r"rows.jsonl:1: not JSON: NaN"):
        store.load(results, strict=True)


def test_a_metric_called_details_in_a_foreign_file_does_not_confuse_the_cut(results: Path, run: store.Run) -> None:
    line = schema.encode({**row(1, metrics={"a": 1}), "run": "r1"}).replace(b'"a":1', b'"a":1,"details":{"b":2}')
    (run.path / "rows.jsonl").write_bytes(line)
    (problem,) = store.load(results).warnings
    assert "metrics['details']: not the name of a metric" in str(problem)


def test_old_rows_are_read(results: Path) -> None:
    old = Path(__file__).parent.parent / "data" / "rows_schema1.jsonl"
    run = store.create_run(results, ENV, "20260105T101500Z-0a1b2c3d")
    (run.path / "rows.jsonl").write_bytes(old.read_bytes())
    found = store.load(results, strict=True)
    assert found.rows["status"].tolist() == ["ok", "ok", "unsupported", "timeout"]
    assert found.rows["peak_bytes"].tolist()[:2] == [6400, 8960]
    assert found.rows["details"][0]["samples_seconds"] == [0.000241, 0.000239, 0.000262]
    assert len(store.open_run(run.path).finished_cells()) == 4


DAMAGE = [
    (b"\x80\x04\x95pickle", "not UTF-8 text: byte 1 is 0x80"),
    (b'{"metrics":{"peak_bytes":NaN}}', "NaN is not a JSON number"),
    (b'{"schema":2}', "batch: missing from the row"),
    (b'{"schema":99}', "written by a newer hograd"),
    (b"[1,2]", "got a list, expected a JSON object"),
    (b"<html>not rows</html>", "not JSON"),
    (b"[" * 50_000, "nested too deeply"),
    (b'{"n":' + b"9" * 6000 + b"}", "Exceeds the limit"),
]


@pytest.mark.parametrize(("junk", "message"), DAMAGE)
def test_a_bad_line_is_skipped_with_file_and_line_or_raised(
    results: Path, run: store.Run, junk: bytes, message: str
) -> None:
    run.append(row(1))
    with open(run.path / "rows.jsonl", "ab") as file:
        file.write(junk + b"\n\n")
    run.append(row(2))
    found = store.load(results)
    assert found.rows["n"].tolist() == [1, 2]
    assert found.rows["line"].tolist() == [1, 4]
    (problem,) = found.warnings
    assert (problem.file, problem.line) == (run.path / "rows.jsonl", 2)
    assert message in problem.message
    with pytest.raises(store.StoreError) as caught:
        store.load(results, strict=True)
    assert str(caught.value) == str(problem)
    assert str(caught.value).startswith(f"{run.path / 'rows.jsonl'}:2: ")


def test_a_row_of_another_run_is_foreign(results: Path, run: store.Run) -> None:
    other = store.create_run(results, ENV, "r2")
    other.append(row(1))
    (run.path / "rows.jsonl").write_bytes((other.path / "rows.jsonl").read_bytes())
    found = store.load(results)
    assert found.rows["run"].tolist() == ["r2"]
    assert "got 'r2', but the folder is 'r1'; a foreign row" in str(found.warnings[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("{", "not JSON"),
        ("[]", "not an environment of hograd"),
        ('{"schema": "1"}', "not an environment of hograd"),
        ('{"schema": 7}', "written by a newer hograd"),
        ('{"schema": 1, "x": Infinity}', "Infinity is not a JSON number"),
    ],
)
def test_a_bad_environment_costs_no_rows(results: Path, run: store.Run, text: str | None, message: str) -> None:
    run.append(row(1))
    file = run.path / "environment.json"
    file.unlink() if text is None else file.write_text(text, encoding="utf-8")
    found = store.load(results)
    assert len(found.rows) == 1
    assert found.environment(MACHINE, "r1") == {}
    assert message in str(found.warnings[0])
    assert found.warnings[0].file == file
    with pytest.raises(store.StoreError, match=r"environment\.json"):
        store.load(results, strict=True)
    with pytest.raises(store.StoreError, match=r"environment\.json"):
        store.open_run(run.path)


def test_the_environment_alone_needs_no_write(run: store.Run) -> None:
    run.close()
    before = sorted(os.listdir(run.path))
    (run.path / "rows.jsonl").write_bytes(b"torn")
    assert store.environment_of(run.path) == run.environment
    assert (run.path / "rows.jsonl").read_bytes() == b"torn"
    assert sorted(os.listdir(run.path)) == before
    with pytest.raises(store.StoreError, match=r"environment\.json: no such file"):
        store.environment_of(run.path.parent)


def test_newest_takes_the_latest_row_of_each_cell(results: Path) -> None:
    for name, value in (("r1", 1), ("r2", 2)):
        with store.create_run(results, ENV, name) as run:
            run.append(row(1, metrics={"m": value}))
    with store.create_run(results, {**ENV, "machine": "other"}, "r0") as run:
        run.append(row(1, metrics={"m": 3}))
    newest = store.newest(store.load(results).rows)
    assert sorted(newest["m"]) == [2, 3]


def test_a_folder_or_device_in_place_of_rows_is_a_warning(results: Path, run: store.Run) -> None:
    rows = run.path / "rows.jsonl"
    rows.unlink()
    rows.symlink_to("/dev/zero")
    assert "not a regular one" in str(store.load(results).warnings[0])
    rows.unlink()
    rows.mkdir()
    assert "not a regular one" in str(store.load(results).warnings[0])


def test_an_overlong_line_does_not_fill_the_memory(
    results: Path, run: store.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hograd_bench.store._reading.LONGEST_LINE", 1000)
    run.append(row(1))
    with open(run.path / "rows.jsonl", "ab") as file:
        file.write(b"x" * 3500 + b"\n")
    run.append(row(2, details={"a": "b"}))
    found = store.load(results)
    assert found.rows["line"].tolist() == [1, 3]
    assert found.rows["details"][1]["a"] == "b"
    assert str(found.warnings[0]).endswith("rows.jsonl:2: longer than 1000 bytes")


def test_details_are_read_in_another_process(results: Path) -> None:
    with store.create_run(results, ENV, "r1") as run:
        run.append(row(1, details={"samples_seconds": [0.5]}))
    details = store.load(results).rows["details"][0]
    assert dict(pickle.loads(pickle.dumps(details))) == {"samples_seconds": [0.5]}

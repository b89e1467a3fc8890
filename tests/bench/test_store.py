"""results/ in and out, whatever happens in between."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pickle
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hograd_bench import _parallel, schema, store
from hograd_bench.cells import Cell
from hograd_bench.metrics import Missing

ENV = {"machine": "some-cpu-0123456789", "recorded": "2026-01-02T03:04:05+00:00", "torch": {"version": "2.13.0"}}
MACHINE = ENV["machine"]


def row(n: int, status: str = "ok", reason: str | None = None, **keywords: Any) -> schema.Row:
    return schema.row(Cell("derivative_tensor", "rows", "mlp", n), status, reason, **keywords)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def run(results: Path) -> store.Run:
    return store.create_run(results, ENV, "r1")


def child(work: Callable[[], None]) -> int:
    """Fork a process that does ``work`` and nothing else; its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child touches no thread of ours
        pid = os.fork()
    if pid:
        return pid
    code = 1
    with contextlib.suppress(BaseException):
        work()
        code = 0
    os._exit(code)


def test_a_run_is_there_whole_with_its_environment(results: Path) -> None:
    run = store.create_run(results, {**ENV, "odd": math.nan})
    assert run.path == results / MACHINE / run.id
    assert sorted(os.listdir(results / MACHINE)) == [run.id]
    assert sorted(os.listdir(run.path)) == ["environment.json", "rows.jsonl"]
    recorded = json.loads((run.path / "environment.json").read_text())
    assert recorded == {"schema": schema.ENVIRONMENT_SCHEMA, **ENV, "odd": None} == run.environment


def test_run_ids_sort_by_time_and_do_not_collide(results: Path) -> None:
    ids = [store.new_run_id() for _ in range(200)]
    assert len(set(ids)) == 200
    assert [i[:16] for i in ids] == sorted(i[:16] for i in ids)


def test_a_taken_name_is_refused_and_its_run_untouched(results: Path, run: store.Run) -> None:
    run.append(row(1))
    with pytest.raises(store.StoreError, match=r"r1: a run of this name exists; continue it with --resume"):
        store.create_run(results, ENV, "r1")
    assert len(store.load(results).rows) == 1


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", ".hidden", "reference", "x" * 200, "a b", 7])
def test_names_that_are_no_folder_names_are_refused(results: Path, name: Any) -> None:
    with pytest.raises(store.StoreError, match="run_id: got"):
        store.create_run(results, ENV, name)
    with pytest.raises(store.StoreError, match="machine: got"):
        store.create_run(results, {"machine": name}, "r")
    assert not results.exists()


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
    (results / MACHINE / ".r9.staging" / "environment.json").write_text("{}")
    (results / "notes").mkdir()
    (results / "notes" / "readme.txt").write_text("hello")
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
    file.unlink() if text is None else file.write_text(text)
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


def test_a_forgotten_run_closes_its_file(results: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(20):
        store.create_run(results, ENV)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 1


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


def test_a_line_torn_anywhere_loses_itself_alone(results: Path) -> None:
    whole = [schema.encode({**row(n, details={"s": "é" * n}), "run": "r1"}) for n in (1, 2)]
    for length in range(len(whole[1])):
        run = store.create_run(results / str(length), ENV, "r1")
        run.close()
        rows = run.path / "rows.jsonl"
        rows.write_bytes(whole[0] + whole[1][:length])
        found = store.load(results / str(length))
        assert found.rows["n"].tolist() == [1]
        assert [w.line for w in found.warnings] == ([2] if length else [])
        assert all("`hograd run --resume` repairs the file" in w.message for w in found.warnings)
        with store.open_run(run.path) as again:
            if length == len(whole[1]) - 1:  # only the newline was lost: the row is not
                assert len(again.finished_cells()) == 2
                continue
            again.append(row(3))
        assert rows.read_bytes().startswith(whole[0])
        assert store.load(results / str(length), strict=True).rows["n"].tolist() == [1, 3]
        torn = run.path / store.TORN
        assert (torn.read_bytes() if length else b"\n") == whole[1][:length] + b"\n"


def test_a_file_that_is_one_torn_line_is_repaired(run: store.Run) -> None:
    run.close()
    (run.path / "rows.jsonl").write_bytes(b"x" * 200_000)  # longer than what is read at once
    with store.open_run(run.path) as again:
        again.append(row(1))
    assert store.load(run.path, strict=True).rows["n"].tolist() == [1]
    assert (run.path / store.TORN).stat().st_size == 200_001


def test_a_writer_repairs_what_another_left_torn(results: Path, run: store.Run) -> None:
    run.append(row(1))
    with open(run.path / "rows.jsonl", "ab") as file:
        file.write(b'{"schema":2,"ru')
    run.append(row(2))
    assert store.load(results, strict=True).rows["n"].tolist() == [1, 2]


def test_a_full_disk_leaves_the_file_as_it_was(run: store.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.append(row(1))
    before = (run.path / "rows.jsonl").read_bytes()
    real, calls = os.write, []

    def fills_up(file: int, data: Any) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(file, bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", fills_up)
    with pytest.raises(store.StoreError) as caught:
        run.append(row(2))
    monkeypatch.undo()
    assert str(caught.value) == (
        f"{run.path / 'rows.jsonl'}: cannot write: the disk is full; "
        "free some space or choose another folder with --results"
    )
    assert len(calls) == 2
    assert (run.path / "rows.jsonl").read_bytes() == before
    run.append(row(2))
    assert store.load(run.path, strict=True).rows["n"].tolist() == [1, 2]


def test_a_limit_on_file_sizes_is_met_for_real(run: store.Run) -> None:
    import resource

    run.append(row(1))
    before = (run.path / "rows.jsonl").read_bytes()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with store.open_run(run.path) as own, pytest.raises(store.StoreError, match="limit on file sizes"):
            own.append(row(2))

    assert os.waitpid(child(work), 0)[1] == 0
    assert (run.path / "rows.jsonl").read_bytes() == before


def test_ctrl_c_in_mid_write_leaves_no_half_line(run: store.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.append(row(1))

    def interrupted(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.append(row(2))
    monkeypatch.undo()
    assert store.load(run.path, strict=True).rows["n"].tolist() == [1]


def test_a_run_that_cannot_be_written_leaves_nothing(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(store.StoreError, match=r"r1: cannot write: the disk is full"):
        store.create_run(results, ENV, "r1")
    assert os.listdir(results / MACHINE) == []


def test_a_file_in_place_of_the_results_folder(results: Path) -> None:
    results.write_text("I am a file")
    with pytest.raises(store.StoreError, match="a file stands where a folder is needed; move it or choose another"):
        store.create_run(results, ENV)


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.EROFS, "the file system is read-only"), (errno.EACCES, "permission denied"), (errno.EIO, "boom")],
)
def test_a_read_only_folder(results: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(code, "boom")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(store.StoreError, match=f"cannot write: {message}.*choose another folder with --results") as e:
        store.create_run(results, ENV)
    assert isinstance(e.value.__cause__, OSError)


def test_a_closed_run_takes_no_rows_and_bad_rows_are_refused(run: store.Run) -> None:
    with pytest.raises(schema.SchemaError):
        run.append({"schema": 2})
    assert (run.path / "rows.jsonl").read_bytes() == b""
    with run:
        pass
    with pytest.raises(store.StoreError, match="the run is closed"):
        run.append(row(1))
    run.close()


def test_a_writer_waits_for_the_lock_of_another(run: store.Run) -> None:
    import fcntl

    def work() -> None:
        with store.open_run(run.path) as own:
            own.append(row(1))

    rows = run.path / "rows.jsonl"
    with open(rows, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        pid = child(work)
        time.sleep(0.2)  # ample for a writer that does not wait
        assert rows.read_bytes() == b""
        fcntl.flock(held, fcntl.LOCK_UN)  # closing would not do: the child has inherited the open file, and its lock
    assert os.waitpid(pid, 0)[1] == 0
    assert run.finished_cells() == {row(1)["cell"]: "ok"}


def test_two_processes_append_to_one_run_at_once(results: Path, run: store.Run) -> None:
    def writer(first: int) -> Callable[[], None]:
        def work() -> None:
            with store.open_run(run.path) as own:
                for n in range(first, first + 100):
                    own.append(row(n, details={"filler": str(n % 10) * (n * 97 % 20_000)}))

        return work

    pids = [child(writer(1)), child(writer(1001))]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    found = store.load(results, strict=True)
    assert sorted(found.rows["n"]) == [*range(1, 101), *range(1001, 1101)]
    assert not (run.path / store.TORN).exists()


def test_two_runs_start_in_one_results_folder_at_once(results: Path) -> None:
    def work() -> None:
        for _ in range(10):
            with store.create_run(results, ENV) as own:
                own.append(row(1))

    pids = [child(work) for _ in range(3)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    found = store.load(results, strict=True)
    assert len(found.rows) == 30
    assert found.rows["run"].nunique() == 30


def test_kill_9_at_twenty_moments_loses_at_most_the_row_in_flight(results: Path, run: store.Run) -> None:
    """Each writer says over a pipe which row is written; what was said before it died must be there, in order."""
    rng = random.Random(0)
    run.close()
    said: list[int] = []
    for _ in range(20):
        reader, pipe = os.pipe()

        def work(pipe: int = pipe) -> None:
            with store.open_run(run.path) as own:
                n = len(own.finished_cells())
                while True:
                    n += 1
                    own.append(row(n, details={"filler": "x" * 400_000}))
                    os.write(pipe, b"%d\n" % n)

        pid = child(work)
        os.close(pipe)
        with open(reader, "rb") as lines:
            said.append(int(lines.readline()))  # it is in its loop now
            time.sleep(rng.uniform(0, 0.03))
            os.kill(pid, signal.SIGKILL)
            said += [int(line) for line in lines]
        os.waitpid(pid, 0)
        with store.open_run(run.path) as again:
            written = len(again.finished_cells())
        assert written - said[-1] in (0, 1)  # the last may have been written and not yet said
    found = store.load(results, strict=True)
    assert found.rows["n"].tolist() == list(range(1, written + 1))
    assert said == sorted(set(said))
    assert all(len(details["filler"]) == 400_000 for details in found.rows["details"])


def test_several_processes_read_what_one_reads(results: Path) -> None:
    for index in range(20):
        with store.create_run(results, ENV, f"r{index:02}") as run:
            for n in (1, 2, 1):
                run.append(row(n, metrics={"peak_bytes": n + index, f"m{index % 3}": "text" if n > 1 else 0.5}))
        if index % 7 == 3:
            with open(run.path / store.ROWS, "ab") as file:
                file.write(b"{not json}\n" + schema.encode(row(3)))
    alone = store.load(results)
    with _parallel.crew(10**12) as crew:
        shared = store.load(results, crew=crew)
        begun = store.begin(results, crew).results()
    for found in (shared, begun):
        pd.testing.assert_frame_equal(found.rows, alone.rows)
        assert found.rows.dtypes.equals(alone.rows.dtypes)
        assert found.environments == alone.environments
        assert found.warnings == alone.warnings
    assert len(alone.warnings) == 6
    assert store.size_of(results) == sum(f.stat().st_size for f in results.rglob("rows.jsonl"))


def test_details_are_read_in_another_process(results: Path) -> None:
    with store.create_run(results, ENV, "r1") as run:
        run.append(row(1, details={"samples_seconds": [0.5]}))
    details = store.load(results).rows["details"][0]
    assert dict(pickle.loads(pickle.dumps(details))) == {"samples_seconds": [0.5]}

"""results/ in, whatever happens meanwhile: torn lines, full disks, Ctrl-C, kill -9, several writers."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hograd_bench import schema, store
from store_fakes import ENV, MACHINE, child, row


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def run(results: Path) -> store.Run:
    return store.create_run(results, ENV, "r1")


def test_a_run_is_there_whole_with_its_environment(results: Path) -> None:
    run = store.create_run(results, {**ENV, "odd": math.nan})
    assert run.path == results / MACHINE / run.id
    assert sorted(os.listdir(results / MACHINE)) == [run.id]
    assert sorted(os.listdir(run.path)) == ["environment.json", "rows.jsonl"]
    recorded = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
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


def test_a_forgotten_run_closes_its_file(results: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(20):
        store.create_run(results, ENV)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.slow
def test_a_line_torn_at_some_bytes_loses_itself_alone(results: Path) -> None:
    torn_lines(results, every=7)


@pytest.mark.slow
def test_a_line_torn_anywhere_loses_itself_alone(results: Path) -> None:
    torn_lines(results, every=1)


def torn_lines(results: Path, every: int) -> None:
    whole = [schema.encode({**row(n, details={"s": "é" * n}), "run": "r1"}) for n in (1, 2)]
    for length in sorted({*range(0, len(whole[1]), every), len(whole[1]) - 1}):
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
    results.write_text("I am a file", encoding="utf-8")
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


@pytest.mark.slow
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


@pytest.mark.slow
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

"""Copies of runs that were read: the same again, and never of other rows."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pandas as pd
import pytest
from hograd_bench import schema, store
from hograd_bench.store import _copies, _loading
from store_fakes import ENV, row


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def run(results: Path) -> store.Run:
    return store.create_run(results, ENV, "r1")


def same(found: store.Results, expected: store.Results) -> None:
    pd.testing.assert_frame_equal(found.rows.drop(columns="details"), expected.rows.drop(columns="details"))
    assert [dict(d) for d in found.rows["details"]] == [dict(d) for d in expected.rows["details"]]
    assert [type(v) for v in found.rows["reason"]] == [type(v) for v in expected.rows["reason"]]
    assert found.environments == expected.environments
    assert found.warnings == expected.warnings


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose lines are read from now on."""
    read: list[Path] = []
    lines = _loading.read_lines
    monkeypatch.setattr(_loading, "read_lines", lambda file, **how: (read.append(file), lines(file, **how))[1])
    return read


@pytest.mark.slow
def test_a_second_read_takes_the_copies_and_finds_the_same(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(10):
        with store.create_run(results, ENV, f"r{index:02}") as run:
            for n in (1, 2, 1):
                metrics = {"peak_bytes": n + index, f"m{index % 3}": "text" if n > 1 else None, "odd": n == 2 or None}
                run.append(row(n, metrics=metrics, details={"samples_seconds": [n]}, started="2026-01-01T00:00:00"))
            run.append(row(3, "oom", "none left", metrics={"mixed": 1.5 if index else "a"}))
            run.append(row(4, metrics={"mixed": "b" if index == 1 else None}))
        if index % 7 == 3:
            with open(run.path / store.ROWS, "ab") as file:
                file.write(b"{not json}\n" + schema.encode(row(3)))
    read = counted(monkeypatch)
    first = store.load(results)
    assert len(read) == 10
    assert len(first.warnings) == 2
    second = store.load(results)
    again = [file.parent.name for file in read[10:]]
    assert again == ["r01", "r03"], "text and numbers in one metric, and lines that are damaged"
    same(second, first)
    assert list(results.rglob(".*.part")) == []


def test_old_rows_have_a_copy_as_well(results: Path) -> None:
    run = store.create_run(results, ENV, "20260105T101500Z-0a1b2c3d")
    old = Path(__file__).parent.parent / "data" / "rows_schema1.jsonl"
    (run.path / store.ROWS).write_bytes(old.read_bytes())
    first, second = store.load(results), store.load(results)
    assert len(list(results.rglob(_copies.COPY))) == 1
    same(second, first)


@pytest.mark.parametrize("change", ["append", "same size", "renamed", "code", "damaged", "another frame", "foreign"])
def test_a_copy_of_other_rows_is_not_read(
    results: Path, run: store.Run, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    run.append(row(1, metrics={"peak_bytes": 7}))
    assert store.load(results).rows["peak_bytes"].tolist() == [7]
    copy, rows = run.path / _copies.COPY, run.path / store.ROWS
    assert copy.exists()
    expected: list[float] = [7]
    if change == "append":
        run.append(row(2, metrics={"peak_bytes": 8}))
        expected = [7, 8]
    elif change == "same size":
        rows.write_bytes(rows.read_bytes().replace(b'"peak_bytes":7', b'"peak_bytes":9'))
        expected = [9]
    elif change == "renamed":
        run.path.rename(run.path.with_name("r2"))
        assert len(store.load(results).rows) == 0
        assert "got 'r1', but the folder is 'r2'" in str(store.load(results).warnings[0])
        return
    elif change == "code":
        monkeypatch.setattr(_copies, "_code", lambda: "another")
    elif change == "damaged":
        copy.write_bytes(copy.read_bytes()[:-20])
    elif change == "another frame":
        frame = pd.read_parquet(copy)
        frame.drop(columns="offset").to_parquet(copy)
    else:
        copy.write_bytes(b"PAR1 not one")
    read = counted(monkeypatch)
    assert store.load(results).rows["peak_bytes"].tolist() == expected
    assert store.load(results).rows["peak_bytes"].tolist() == expected
    assert len(read) == 1, "the copy was made anew"


@pytest.mark.parametrize("trouble", [OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "read-only")])
def test_where_no_copy_can_be_written_nothing_is_said(
    results: Path, run: store.Run, monkeypatch: pytest.MonkeyPatch, trouble: OSError
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise trouble

    run.append(row(1))
    monkeypatch.setattr(os, "replace", refused)
    for _ in range(2):
        found = store.load(results)
        assert (len(found.rows), found.warnings) == (1, [])
        assert sorted(os.listdir(run.path)) == [store.ENVIRONMENT, store.ROWS]


def test_strictly_every_line_is_read_whatever_the_copy(results: Path, run: store.Run) -> None:
    (run.path / "rows.jsonl").write_bytes(
        schema.encode({**row(1, details={"a": 1}), "run": "r1"}).replace(b'"a":1', b'"a":NaN')
    )
    assert store.load(results).warnings == store.load(results).warnings == []
    with pytest.raises(store.StoreError, match=r"rows.jsonl:1: not JSON: NaN"):
        store.load(results, strict=True)

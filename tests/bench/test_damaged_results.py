"""Results that were damaged, by whatever: what is sound is read, the rest is counted, and nobody sees a traceback."""

from __future__ import annotations

import errno
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hograd_bench import environment, schema, store
from hograd_bench.cells import Cell
from hograd_bench.cli import app
from typer.testing import CliRunner

LAW = ("law", "--operator", "hvp", "--method", "double_backward", "--problem", "sin_chain", "--predict", "n=640")
COMMANDS = (("claims", "C2"), ("compare", "latest", "latest"), ("peers",), ("run", "--resume", "--list-cells"))


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return environment.record()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: dict[str, Any]) -> Path:
    """A run of eight cells whose peak is 8 n bytes, of one problem, in the folder where the commands look."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environment, "record", lambda packages=(): dict(recorded))
    return fill(store.create_run("results", recorded))


def fill(made: store.Run, first: int = 1) -> Path:
    with made:
        for n in range(8 * first, 72, 8):
            figures = {"peak_bytes": 8 * n, "seconds_min": n * 1e-6, "relative_error": 1e-9}
            cell = Cell("derivative_vector_product", "double_backward", "sin_chain", n)
            made.append(schema.row(cell, "ok", metrics=figures, details={"samples_seconds": [n * 1e-6]}))
    return made.path


def hograd(*arguments: str) -> Any:
    """Run a command: whatever is wrong, it ends by its own exit code."""
    ended = CliRunner().invoke(app, list(arguments))
    assert ended.exception is None or isinstance(ended.exception, SystemExit), (arguments, ended.exception)
    assert "Traceback" not in ended.output
    return ended


def rows(run: Path) -> Path:
    return run / store.ROWS


def with_first_row(run: Path, **changes: Any) -> None:
    first, *others = rows(run).read_text(encoding="utf-8").splitlines()
    rows(run).write_text("\n".join([json.dumps({**json.loads(first), **changes}), *others, ""]), encoding="utf-8")


def with_environment(run: Path, **changes: Any) -> None:
    file = run / store.ENVIRONMENT
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def replaced(run: Path, data: bytes) -> None:
    rows(run).write_bytes(data)


def appended(run: Path, data: bytes) -> None:
    with open(rows(run), "ab") as file:
        file.write(data)


WRONG_TYPES = {
    "torch": 3, "cpu": [], "machine": {}, "facts": 5, "metrics": [1], "plan": "x", "ceilings": "c", "hosts": 3,
    "gpus": "g", "packages": [], "threads": None, "source": 7, "memory": "m", "system": [], "python": 1, "recorded": 5,
    "variables": 3,
}  # fmt: skip
WRONG_INSIDE = {
    "metrics": {"peak_bytes": 5, "own": {"unit": 3}},
    "facts": {"operators": {"x": 3}, "operations": [1], "peers": {"a": {"methods": 3}}},
    "plan": {"problems": {"a": []}, "problem_files": 3, "asked": []},
}
SOUND: dict[str, Callable[[Path], Any]] = {  # the law is still found
    "a torn end": lambda run: replaced(run, rows(run).read_bytes()[:-30]),
    "no environment": lambda run: (run / store.ENVIRONMENT).unlink(),
    "an environment of another kind": lambda run: (run / store.ENVIRONMENT).write_text("[]", encoding="utf-8"),
    "an environment of the future": lambda run: with_environment(run, schema=99),
    "an environment of wrong types": lambda run: with_environment(run, **WRONG_TYPES),
    "an environment with wrong types inside": lambda run: with_environment(run, **WRONG_INSIDE),
    "a row of the future": lambda run: with_first_row(run, schema=99),
    "a row of wrong types": lambda run: with_first_row(run, metrics=3, details=[]),
    "a row with an unknown status": lambda run: with_first_row(run, status="great"),
    "details of wrong types": lambda run: with_first_row(run, details={"samples_seconds": "x", "peak_attribution": 3}),
    "a negative count": lambda run: with_first_row(run, metrics={"peak_bytes": -3}),
    "every row twice": lambda run: replaced(run, rows(run).read_bytes() * 2),
    "a line of megabytes": lambda run: appended(run, b'{"a":"' + b"x" * 3_000_000 + b'"}\n'),
    "a line nested deeply": lambda run: appended(run, b"[" * 100_000 + b"\n"),
    "an integer of ten thousand digits": lambda run: appended(run, b'{"schema":' + b"9" * 10_000 + b"}\n"),
    "a link to itself": lambda run: (run.parent / "loop").symlink_to(run.parent / "loop"),
    "a link to the results": lambda run: (run.parent / "up").symlink_to(run.parents[1], target_is_directory=True),
    "a copy that is none": lambda run: (run / ".rows.parquet").write_bytes(b"PAR1 and PAR1"),
    "a folder in the place of a copy": lambda run: (run / ".rows.parquet").mkdir(),
}
LOST: dict[str, tuple[Callable[[Path], Any], str]] = {  # no row is left, and how many were lost is said
    "one torn line": (lambda run: replaced(run, rows(run).read_bytes()[:50]), "1 line or file is damaged"),
    "binary": (lambda run: replaced(run, bytes(range(256)) * 9), "10 lines or files are damaged"),
    "zeros": (lambda run: replaced(run, bytes(5000)), "1 line or file is damaged"),
    "no rows": (lambda run: rows(run).unlink(), "1 line or file is damaged"),
    "a folder in the place of rows": (lambda run: (rows(run).unlink(), rows(run).mkdir()), "1 line or file is damaged"),
    "a pipe in the place of rows": (
        lambda run: (rows(run).unlink(), os.mkfifo(rows(run))),
        "1 line or file is damaged",
    ),
    "all of the future": (
        lambda run: replaced(run, rows(run).read_bytes().replace(b'"schema":2', b'"schema":99')),
        "8 lines or files are damaged",
    ),
    "a folder of another name": (lambda run: run.rename(run.parent / "my run"), "8 lines or files are damaged"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", SOUND)
def test_what_is_sound_is_read(run: Path, damage: str) -> None:
    SOUND[damage](run)
    ended = hograd(*LAW)
    assert "at n=640: 5,120 exactly" in ended.stdout, ended.output
    for command in COMMANDS:
        hograd(*command)


@pytest.mark.slow
@pytest.mark.parametrize("damage", LOST)
def test_what_is_lost_is_counted(run: Path, damage: str) -> None:
    spoil, said = LOST[damage]
    spoil(run)
    ended = hograd(*LAW)
    assert ended.exit_code == 1
    assert f"none of its rows can be read, {said}; measure anew" in ended.output
    assert hograd("report").exit_code == 1
    assert not Path("reports").exists()
    for command in COMMANDS:
        assert hograd(*command).exit_code in (1, 2)


@pytest.mark.slow
def test_a_report_of_what_is_left(run: Path) -> None:
    with_environment(run, **WRONG_TYPES)
    with_first_row(run, details={"samples_seconds": "x", "peak_attribution": 3, "aten_by_op": [1], "changed": 5})
    appended(run, b"{\n")
    (run.parent / "loop").symlink_to(run.parent / "loop")
    ended = hograd("report", "--benchmark-json", "times.json")
    assert ended.exit_code == 0, ended.output
    assert json.loads(Path("times.json").read_text(encoding="utf-8"))["benchmarks"] == []
    assert "1 of " in ended.output or "rows.jsonl:9" in ended.output, ended.output


@pytest.mark.slow
def test_a_report_on_a_full_disk_leaves_the_last_good_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("reports").mkdir()
    for name in ("index.html", "rows.csv"):
        (Path("reports") / name).write_text("the last good one", encoding="utf-8")

    def full(path: Path, content: str) -> None:
        path.write_text(content[:100], encoding="utf-8")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(importlib.import_module("hograd_bench.report.build"), "_text", full)
    ended = hograd("report")
    assert ended.exit_code == 1
    assert "cannot write: No space left on device; choose another folder with --reports" in ended.output
    assert sorted(path.name for path in Path("reports").iterdir()) == ["index.html", "rows.csv"]
    assert {path.read_text(encoding="utf-8") for path in Path("reports").iterdir()} == {"the last good one"}


@pytest.mark.slow
def test_results_that_are_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (LAW, ("claims",), ("report",), ("peers",), ("compare", "a", "b"), ("run", "--resume")):
        ended = hograd(*command)
        assert ended.exit_code in (1, 2)
        assert "results" in ended.output
    Path("results").write_text("a file", encoding="utf-8")
    for command in (LAW, ("claims",), ("report",), ("peers",), ("compare", "a", "b"), ("run", "--resume")):
        assert hograd(*command).exit_code in (1, 2)


def test_a_file_that_cannot_be_written_is_named(run: Path) -> None:
    ended = hograd("claims", "C2", "--markdown", "none/claims.md")
    assert ended.exit_code == 1
    assert "--markdown: none/claims.md cannot be written: No such file or directory; name another file" in ended.output

"""A run that was stopped goes on as it was asked for, alone, and by the command that it says."""

from __future__ import annotations

import json
import os
import shlex
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hograd_bench import engine, environment, problems, run, schema, scratch, store, waiting
from hograd_bench.cells import Cell
from hograd_bench.cli import app
from hograd_bench.engine import Event, Limits
from hograd_bench.plan import Planned
from hograd_bench.run import _asking, _display, _running
from rich.console import Console
from store_fakes import child
from typer.testing import CliRunner, Result

SOURCE = """
from hograd_bench.problems import Instance, problem

@problem("mine", formula="x⁴", source="tests", family="my own", sizes={"n": "entries of x"})
def mine(spec, draw):
    return Instance(lambda x: (x**4).sum(), draw.normal(spec.n))
"""


class Instant:
    """An engine whose cells end at once; Ctrl-C comes after some of them."""

    limits: Limits
    interrupt_after = 1000
    measured: tuple[str, ...] = ()

    def __init__(self, workers: int = 1, limits: Limits = Limits()) -> None:  # noqa: B008 (frozen)
        type(self).limits = limits

    def environment(self, packages: Any = ()) -> dict[str, Any]:
        return environment.record(packages)

    def ceilings(self) -> dict[str, Any]:
        return {}

    def run(self, tasks: Any, wanted: Any = None) -> Iterator[Event]:
        type(self).measured = ()
        for task in tasks:
            if len(self.measured) == self.interrupt_after:
                raise KeyboardInterrupt
            yield Event(task)
            yield Event(task, schema.row(task.cell, "ok", metrics={"peak_bytes": 8 * task.cell.n}))
            type(self).measured += (task.cell.id,)


@contextmanager
def here(host: Any) -> Iterator[Callable[..., Any]]:
    """In the place of a process of its own: the problem files of these tests are good."""
    yield lambda function, *arguments, seconds: problems.numels(*arguments)


@pytest.fixture
def hograd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command, in an empty folder, each time as a new process has it."""
    monkeypatch.setattr(engine, "Local", Instant)
    monkeypatch.setattr(_asking, "suite", here)
    monkeypatch.setattr(Instant, "interrupt_after", 1000)
    monkeypatch.chdir(tmp_path)
    record = environment.record()
    monkeypatch.setattr(environment, "record", lambda packages=(): dict(record))

    def invoke(*arguments: str) -> Result:
        problems._contract.withdraw(set(problems.texts()))
        problems._FILES.clear()
        return CliRunner().invoke(app, list(arguments))

    return invoke


BEGIN = (
    "run", "--problem-file", "my file.py", "--results", "my results", "--operator", "hvp", "--method",
    "double_backward", "--n", "4,5", "--untimed", "--cell-timeout", "33",
)  # fmt: skip


def stopped(hograd: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, after: int = 1) -> Result:
    """A run of two cells of a problem of one's own that was stopped after the first."""
    Path("my file.py").write_text(SOURCE, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(Instant, "interrupt_after", after)
        return hograd(*BEGIN)


def rows_under(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("*/*/rows.jsonl")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_the_hint_after_ctrl_c_goes_on_with_the_same_run(
    hograd: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = stopped(hograd, monkeypatch)
    assert ended.exit_code == 130, ended.output
    said = ended.stderr.split("Go on with: ")[1].strip()
    assert said == "hograd run --results 'my results' --resume"
    assert [row["n"] for row in rows_under(Path("my results"))] == [4]

    monkeypatch.setattr(Instant, "limits", None)
    again = hograd(*shlex.split(said)[1:])
    assert again.exit_code == 0, again.output
    assert [(row["problem"], row["n"]) for row in rows_under(Path("my results"))] == [("mine", 4), ("mine", 5)]
    assert [Cell.parse(text).n for text in Instant.measured] == [5]
    assert Instant.limits.seconds == 33
    assert "1 cell in" in again.output
    assert hograd(*shlex.split(said)[1:]).output.count("nothing was left to do") == 1


@pytest.mark.slow
def test_the_device_is_the_recorded_one(hograd: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my file.py").write_text(SOURCE, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(Instant, "interrupt_after", 1)
        assert hograd(*BEGIN, "--device", "cuda").exit_code == 130
    refused = hograd("run", "--results", "my results", "--resume", "--device", "cpu")
    assert refused.exit_code == 2
    assert "--device: got 'cpu', but the run that --resume goes on with was asked for 'cuda'" in refused.output
    assert hograd("run", "--results", "my results", "--resume").exit_code == 0
    assert [(row["device"], row["n"]) for row in rows_under(Path("my results"))] == [("cuda", 4), ("cuda", 5)]


@pytest.mark.slow
def test_limits_may_be_others_and_cells_may_not(hograd: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(hograd, monkeypatch)
    go_on = ("run", "--results", "my results", "--resume")
    refused = hograd(*go_on, "--n", "9")
    assert refused.exit_code == 2
    assert "--n: got '9', but the run that --resume goes on with was asked for '4,5'; leave it out" in refused.output
    refused = hograd(*go_on, "--problem-file", "other.py")
    assert refused.exit_code == 2
    assert "leave it out" in refused.output
    assert hograd(*go_on, "--cell-timeout", "44", "--n", "4,5").exit_code == 0
    assert Instant.limits.seconds == 44


@pytest.mark.slow
def test_a_problem_file_with_another_text_is_refused(
    hograd: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(hograd, monkeypatch)
    Path("my file.py").write_text(SOURCE.replace("x**4", "x**6"), encoding="utf-8")
    refused = hograd("run", "--results", "my results", "--resume")
    assert refused.exit_code == 1
    assert "with another text of it; start a new run without --resume" in refused.output
    Path("my file.py").unlink()
    refused = hograd("run", "--results", "my results", "--resume")
    assert refused.exit_code == 2
    assert "my file.py is not there" in refused.output
    assert len(rows_under(Path("my results"))) == 1


@pytest.mark.slow
def test_a_run_that_is_still_written_is_refused_until_its_process_is_gone(
    hograd: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(hograd, monkeypatch)
    (folder,) = Path("my results").glob("*/*")
    held = Path("held")

    def hold() -> None:
        opened = store.open_run(folder)
        opened.hold()
        held.touch()
        time.sleep(60)

    pid = child(hold)
    try:
        while not held.exists():
            time.sleep(0.01)
        refused = hograd("run", "--results", "my results", "--resume")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert refused.exit_code == 1
    assert "another process is measuring into this run; wait for its end, or start another run" in refused.output
    assert len(rows_under(Path("my results"))) == 1
    assert hograd("run", "--results", "my results", "--resume").exit_code == 0
    assert len(rows_under(Path("my results"))) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (None, "was started by a program and does not say which cells were asked for"),
        ("x", "was started by a program"),
        ({"n": ["x"], "operator": ["hvp"]}, "--n: got \"['x']\", expected integers from 1"),
        ({"cell": "x"}, "damaged environment.json: plan, asked, cell"),
        ({"cell_timeout": {}}, "damaged environment.json: plan, asked, cell_timeout"),
        ({"cell_timeout": -1}, "--cell-timeout: got -1, expected seconds above 0"),
        ({"problem_file": [3]}, "damaged environment.json: plan, asked, problem_file"),
        ({"untold": 1, "cell": ["no cell"]}, "cell: got 'no cell'"),
    ],
)
def test_a_record_that_says_no_cells_is_named(hograd: Callable[..., Result], asked: Any, message: str) -> None:
    store.create_run("results", {**environment.record(), "plan": {"asked": asked} if asked else 5}).close()
    refused = hograd("run", "--resume")
    assert refused.exit_code == 2, refused.output
    assert message in refused.output


def test_a_damaged_environment_is_named(hograd: Callable[..., Result]) -> None:
    made = store.create_run("results", environment.record())
    (made.path / store.ENVIRONMENT).write_text("{", encoding="utf-8")
    made.close()
    refused = hograd("run", "--resume")
    assert refused.exit_code == 1
    assert "environment.json: not JSON" in refused.output


def test_two_timed_runs_are_told_of_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    console = Console(soft_wrap=True)
    with _running._taking_times(console):
        assert capsys.readouterr().out == ""
        with _running._taking_times(console):
            assert "another run is taking times on this machine" in capsys.readouterr().out
    with _running._taking_times(console):
        assert capsys.readouterr().out == ""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with _running._taking_times(console):  # where nobody can tell, nothing is said
        assert capsys.readouterr().out == ""


def test_scratch_folders_of_dead_processes_are_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch.scratch() as mine:
        pid = child(lambda: None)
        os.waitpid(pid, 0)
        stale, foreign = tmp_path / f"{scratch.PREFIX}{pid}-abc", tmp_path / f"{scratch.PREFIX}of-others"
        for folder in (stale, foreign):
            (folder / "deep").mkdir(parents=True)
        (tmp_path / f"{scratch.PREFIX}{pid}-link").symlink_to(foreign)
        with scratch.scratch() as other:
            assert not stale.exists()
            assert foreign.exists()
            assert mine.exists()
            assert other.exists()
    assert not mine.exists()


def test_a_wait_has_a_sign_of_life(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert waiting.SAY_EVERY <= 10
    monkeypatch.setattr(waiting, "SAY_EVERY", 0.01)
    cell = Cell("derivative_vector_product", "double_backward", "mlp", 8)
    with _display.Display([Planned(cell)], Console(soft_wrap=True)) as shown:
        shown.started(Planned(cell))
        said = ""
        while cell.id not in said:
            said += capsys.readouterr().out
    assert "0/1 cells" in said


def test_a_run_ends_with_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = store.create_run(tmp_path, environment.record())
    for n, seconds in ((8, 2e-6), (16, 4e-6)):
        for method, times in (("slow_[bold]", 3), ("fast", 1)):
            figures = {"seconds_min": times * seconds, "gradient_equivalents": 2.5, "peak_bytes": 8 * n}
            cell = Cell("derivative_vector_product", method, "mlp", n)
            made.append(schema.row(cell, "ok", metrics={**figures, "relative_error": 1e-9}))
    made.append(schema.row(Cell("derivative_vector_product", "hung", "mlp", 8), "timeout", "over the limit"))
    made.append(schema.row(Cell("derivative_vector_product", "unasked", "mlp", 8), "skipped", "because"))
    made.close()
    run.Outcome(made.path).print(Console(width=200))
    lines = [line.strip("│ ").split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    cells = [[part.strip() for part in line] for line in lines]
    assert cells == [
        ["hvp", "mlp", "8", "fast", "ok", "2 µs", "2.5", "64 B", "1.0e-09"],
        ["hvp", "mlp", "8", "slow_[bold]", "ok", "6 µs", "2.5", "64 B", "1.0e-09"],
        ["hvp", "mlp", "8", "hung", "timeout", "–", "–", "–", "–"],
        ["hvp", "mlp", "16", "fast", "ok", "4 µs", "2.5", "128 B", "1.0e-09"],
        ["hvp", "mlp", "16", "slow_[bold]", "ok", "12 µs", "2.5", "128 B", "1.0e-09"],
    ]


def test_many_cells_are_lines_with_ranges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = store.create_run(tmp_path, environment.record())
    for n in range(1, 60):
        cell = Cell("derivative_vector_product", "double_backward", "mlp", n)
        made.append(schema.row(cell, "ok" if n < 59 else "oom", None if n < 59 else "full", metrics={"peak_bytes": n}))
    made.close()
    run.Outcome(made.path).print(Console(width=200))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("│"))
    assert "58 ok, 1 oom" in line
    assert "1 B … 58 B" in line

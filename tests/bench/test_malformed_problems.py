"""Whatever a problem file holds, the run ends in rows that say why, and what is good in it is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "data" / "malformed_problems.py"
ESCAPE = "\x1b"

# Problem -> status and what its reason must say.
EXPECTED = {
    "good_first": ("ok", ""),
    "no_arguments": ("failed", "its factory takes other arguments than (spec, draw)"),
    "a_tuple": ("failed", "returned a tuple, expected Instance(f=…, x=…)"),
    "yields": ("failed", "its factory returned a generator, expected Instance(f=…, x=…)"),
    "nothing": ("failed", "returned nothing, expected Instance"),
    "factory_exits": ("failed", "SystemExit: bye: the problem ended the program"),
    "factory_ends_it": ("crashed", "exit code 5: os._exit"),
    "factory_raises": ("failed", "AttributeError"),
    "no_function": ("failed", "f is a str, expected a function of x"),
    "other_v": ("failed", "v has shape (5,), expected that of x, (4,)"),
    "x_tuple": ("ok", ""),
    "x_with_text": ("failed", "x[1]: got str, expected a torch.Tensor; what is not differentiated belongs in args"),
    "a_batch": ("failed", "f: returned shape (3,), expected a 0-dimensional tensor; reduce it with .sum() or .mean()"),
    "x_float32": ("failed", "x is torch.float32 on cpu where torch.float64 on cpu was asked for; make it by draw"),
    "x_integers": ("failed", "x is torch.int64"),
    "x_complex": ("failed", "x is torch.complex128"),
    "x_meta": ("failed", "on meta where"),
    "x_sparse": ("failed", "expected a dense tensor"),
    "x_empty": ("failed", "x is empty"),
    "x_moves": ("failed", "its x is another one at each build, so that nothing can be compared; draw all data"),
    "x_nan": ("unverified", "truth is not finite"),
    "x_expanded": ("ok", ""),
    "x_number": ("ok", ""),
    "x_parameter": ("ok", ""),
    "lacks_module": ("failed", "provides 'module' by its declaration, and its extras lack it"),
    "counts_wrongly": ("ok", ""),
    "returns_vector": ("failed", "f: returned shape (4,), expected a 0-dimensional tensor"),
    "returns_float": ("failed", "f: returned float, expected a 0-dimensional tensor"),
    "returns_complex": ("failed", "f: returned dtype torch.complex128, expected a real floating dtype"),
    "returns_integer": ("failed", "f: returned dtype torch.int64, expected a real floating dtype"),
    "takes_two": ("failed", "missing 1 required positional argument: 'y'"),
    "closes_pipes": ("crashed", "its process "),  # closed its pipe, or ended for want of it
    "returns_nothing": ("failed", "f: returned NoneType"),
    "raises_mutely": ("failed", "MuteError: it cannot say why"),
    "raises_colours": ("failed", "ValueError: \\x1b[31mred\\x1b[0m [bold]x[/bold] :100: \\x07"),
    "raises_own": ("failed", "Own: own: the problem ended the program; have f return, or raise an Exception"),
    "raises_wordless": ("failed", "Wordless: it cannot say why: the problem ended the program"),
    "leaves": ("failed", "GeneratorExit: gone"),
    "interrupts": ("failed", "KeyboardInterrupt: the problem ended the program"),
    "exits": ("failed", "SystemExit: 3"),
    "skips": ("failed", "not today"),
    "ends_it": ("crashed", "exit code 0: os._exit"),
    "kills_it": ("crashed", "SIGTERM"),
    "forks": ("ok", ""),
    "recurses": ("failed", "RecursionError"),
    "not_finite": ("unverified", "truth is not finite"),
    "overflows": ("unverified", "truth is not finite"),
    "changes_x": ("failed", "f changes x in place; write x + 1, say, and not x.add_(1)"),
    "draws": ("unverified", "is not deterministic or not smooth at x"),
    "kink": ("unverified", "truth is in doubt"),
    "hides": ("unverified", "f hides a dependence from autograd"),
    "prints": ("ok", ""),
    "misbehaves": ("ok", ""),
    "sets_everything": ("failed", "meanwhile the problem set the default device to meta"),
    "patches": ("unverified", "meanwhile the problem replaced torch.autograd.grad"),
    "good_last": ("ok", ""),
}


def hograd(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = [sys.executable, "-m", "hograd_bench", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("malformed")
    arguments = ["--problem-file", str(FILE), "--operator", "hvp", "--method", "double_backward", "--n", "4"]
    more = ["--dtype", "float64", "--untimed", "--results", "results"]
    return hograd("run", *arguments, *more, cwd=folder), folder


@pytest.fixture(scope="module")
def rows(ran: tuple[subprocess.CompletedProcess[str], Path]) -> dict[str, dict[str, Any]]:
    (file,) = (ran[1] / "results").glob("*/*/rows.jsonl")
    read = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len({row["cell"] for row in read}) == len(read)
    return {row["problem"]: row for row in read}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_each_is_a_row_that_says_why(name: str, rows: dict[str, dict[str, Any]]) -> None:
    status, reason = EXPECTED[name]
    assert (rows[name]["status"], reason in (rows[name]["reason"] or "")) == (status, True), rows[name]["reason"]


@pytest.mark.slow
def test_no_cell_is_lost_and_nothing_else_is_said(ran: Any, rows: dict[str, dict[str, Any]]) -> None:
    done, _ = ran
    assert set(rows) == set(EXPECTED)
    assert done.returncode == 0
    assert f"{len(EXPECTED)} cells" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert ESCAPE not in done.stdout + done.stderr


@pytest.mark.slow
def test_what_a_problem_changed_is_noted_in_its_row_alone(rows: dict[str, dict[str, Any]]) -> None:
    assert set(rows["misbehaves"]["details"]["changed"]) == {
        "seeded torch's generator",
        "set torch's threads to 2",
        "set the default dtype to torch.float16",
        "changed the working folder to /",
    }
    noted = {name for name, row in rows.items() if "changed" in row["details"]}
    assert noted == {"misbehaves", "sets_everything", "patches"}


@pytest.mark.slow
def test_where_truth_is_in_doubt_counts_and_agreement_are_there(rows: dict[str, dict[str, Any]]) -> None:
    taken = rows["kink"]
    assert taken["metrics"]["peak_bytes"] > 0
    assert taken["metrics"]["aten_calls"] > 0
    assert taken["metrics"]["disagreement"] < 1e-9
    assert taken["metrics"]["relative_error"] is None
    assert "truth is in doubt" in taken["missing"]["relative_error"]


@pytest.mark.slow
def test_a_file_without_one_good_problem_is_exit_code_1(tmp_path: Path) -> None:
    arguments = ["--operator", "hvp", "--method", "double_backward", "--n", "4", "--untimed"]
    (tmp_path / "bad.py").write_text(
        "from hograd_bench.problems import problem\n"
        "@problem('bad', formula='f', source='s', family='f', sizes={'n': 'n'})\n"
        "def bad(spec, draw):\n    raise RuntimeError('never')\n",
        encoding="utf-8",
    )
    done = hograd("run", "--problem-file", "bad.py", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "RuntimeError: never" in done.stdout
    assert "no cell came out ok" in done.stderr

"""The terminal: lines that are whole, text that is text, and help that runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from hograd_bench import claims, environment, plan, schema, store
from hograd_bench.cells import Cell
from hograd_bench.cli import EXAMPLES, app
from hograd_bench.cli._common import first_line
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
LONG = "m" * 150
SHOUTED = "ValueError: [bold]x[/bold] [/red] :smile: \x1b[31mred"


def invoke(*arguments: str, **variables: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env=variables, prog_name="hograd")


def a_run(results: Path, *rows: tuple[Cell, str, str | None, dict[str, Any]]) -> Path:
    with store.create_run(results, environment.record()) as made:
        for cell, status, reason, metrics in rows:
            made.append(schema.row(cell, status, reason, metrics=metrics))
    return made.path


def hvp(n: int, method: str = "double_backward") -> Cell:
    return Cell("derivative_vector_product", method, "sin_chain", n)


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["run", "--operator", "hpv"], "hvp"),
        (["run", "--operator", "Hessain"], "hessian"),
        (["run", "--operator", "hvp", "--method", "double_backwards"], "double_backward"),
        (["run", "--preset", "smok"], "smoke"),
        (["claims", "c2"], "C2"),
        (["run", "--preset", "nothing like it"], None),
    ],
)
def test_a_name_that_is_nearly_one_is_told_which(arguments: list[str], near: str | None) -> None:
    said = invoke(*arguments)
    assert said.exit_code == 2
    assert re.findall(r"; did you mean (\S+)\?", said.stderr) == ([near] if near else [])


def test_a_law_that_no_row_has_says_what_the_rows_have(tmp_path: Path) -> None:
    a_run(tmp_path, (hvp(8), "ok", None, {}), (hvp(8, "jvp_of_grad"), "ok", None, {}))
    asked = ("law", "--operator", "hvp", "--results", str(tmp_path), "--problem")
    said = invoke(*asked, "sine_chain", "--method", "double_backward").stderr
    assert "problem: got 'sine_chain', expected one of sin_chain: the rows with operator=" in said
    said = invoke(*asked, "sin_chain", "--method", "jvp_of_gradient").stderr
    assert "method: got 'jvp_of_gradient', expected one of double_backward, jvp_of_grad: the rows with" in said
    assert said.rstrip().endswith("measure some with `hograd run`; did you mean jvp_of_grad?")
    said = invoke(*asked, "sin_chain", "--method", "double_backward", "--fix", "q=3").stderr
    assert "--fix: got 'q', expected one of n, depth, batch, order" in said


@pytest.mark.slow
@pytest.mark.parametrize(("command", "line"), [(name, line) for name, lines in EXAMPLES.items() for line in lines])
def test_every_example_of_the_help_is_a_command(command: str, line: str) -> None:
    name, *arguments = shlex.split(line)
    assert name == command
    typer.main.get_command(app).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
    shown = invoke(command, "--help", COLUMNS="200").stdout
    assert f"hograd {line}" in shown


def commands_of(page: Path) -> tuple[list[str], list[str]]:
    """What a page says to type in blocks, and what it names within lines."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|console)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [
        re.sub(r"^\w*\$ +", "", line.strip()).partition("  #")[0] for block in blocks for line in block.splitlines()
    ]
    typed = [line for line in lines if re.match(r"hograd [a-z]", line)]
    return typed, re.findall(r"`(hograd [a-z][^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


WRITTEN = (*ROOT.glob("*.md"), *(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "made"))
PAGES = sorted(p for p in WRITTEN if any(commands_of(p)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_the_pages_is_one(page: Path) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    typed, named = commands_of(page)
    for line in typed:
        _, name, *arguments = shlex.split(line)
        asked = known[name].make_context(name, arguments).params
        assert asked.get("preset") in (None, "NAME", *plan.load_presets()), line
    for line in named:
        options = {option for parameter in known[line.split()[1]].params for option in parameter.opts}
        options |= {option for parameter in known[line.split()[1]].params for option in parameter.secondary_opts}
        assert set(re.findall(r"--[a-z-]+", line)) <= options | {"--help"}, line


@pytest.mark.parametrize("axis", ["n", "depth", "dtype"])
def test_an_axis_without_values_is_no_preset(axis: str) -> None:
    said = invoke("run", f"--{axis}", " ", "--list-cells")
    assert said.exit_code == 2
    assert f"--{axis}: got ' ', expected" in said.stderr


def test_the_list_has_no_marks_of_another_language() -> None:
    assert first_line("The :mod:`~a.b` of ``order``, `x`.\n\nMore") == "The a.b of order, `x`."


@pytest.mark.slow
def test_a_locale_without_the_letters_costs_no_output(tmp_path: Path) -> None:
    results = tmp_path / "results"
    a_run(results, (hvp(8), "ok", None, {"peak_bytes": 64}))
    plain = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    for more in ([], ["--json"]):
        command = [sys.executable, "-m", "hograd_bench", "claims", "C2", "--results", str(results), *more]
        said = subprocess.run(command, env=plain, capture_output=True, check=False)
        assert said.returncode == 0, said.stderr
        text = said.stdout.decode("ascii")
        assert json.loads(text)[0]["title"].endswith("O(T²)") if more else "O(T\\xb2)" in text


def test_every_command_has_examples() -> None:
    assert set(EXAMPLES) == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_the_version_and_completion() -> None:
    said = invoke("--version")
    assert said.exit_code == 0
    assert said.stdout.startswith("hograd ")
    assert "torch " in said.stdout
    completed = invoke(_HOGRAD_COMPLETE="complete_bash", COMP_WORDS="hograd cl", COMP_CWORD="1")
    assert completed.stdout.split() == ["claims"]
    assert "--install-completion" in invoke("--help", COLUMNS="200").stdout


def test_compare_has_a_line_a_change_the_largest_first_and_ids_whole(tmp_path: Path) -> None:
    a = a_run(
        tmp_path,
        (hvp(8), "ok", None, {"peak_bytes": 100, "allocations": 7, "seconds_min": 1e-6}),
        (hvp(9, LONG), "ok", None, {"peak_bytes": 1_000_000, "allocations": 8, "seconds_min": 1e-6}),
        (hvp(10), "ok", None, {}),
    )
    b = a_run(
        tmp_path,
        (hvp(8), "ok", None, {"peak_bytes": 110, "allocations": 7, "seconds_min": 2e-6}),
        (hvp(9, LONG), "ok", None, {"peak_bytes": 4_000_000, "allocations": 4, "seconds_min": 1e-6}),
        (hvp(10), "failed", SHOUTED, {}),
    )
    said = invoke("compare", str(a), str(b), "--results", str(tmp_path), COLUMNS="80")
    assert said.exit_code == 1
    lines = said.stdout.splitlines()
    turned = "ok → failed: ValueError: [bold]x[/bold] [/red] :smile: \\x1b[31mred  " + hvp(10).id
    assert lines[lines.index("Cells whose status changed") + 1] == turned
    at = lines.index("Deterministic metrics that differ, the largest change first")
    assert lines[at + 1 : at + 4] == [
        f"      4×  peak_bytes 1,000,000 B → 4,000,000 B  {hvp(9, LONG).id}",
        f"    0.5×  allocations 8 → 4  {hvp(9, LONG).id}",
        f"    1.1×  peak_bytes 100 B → 110 B  {hvp(8).id}",
    ]
    at = lines.index("Other metrics, B / A, the largest change first")
    assert lines[at + 1] == f"      2×  seconds_min 1 µs → 2 µs  {hvp(8).id}"


@pytest.mark.slow
def test_claims_are_a_line_each_and_the_reasons_are_asked_for(tmp_path: Path) -> None:
    a_run(tmp_path, *((hvp(n), "ok", None, {"peak_bytes": 8 * n}) for n in (8, 16, 24)))
    said = invoke("claims", "--results", str(tmp_path), COLUMNS="60")
    assert said.exit_code == 0
    lines, known = said.stdout.splitlines(), claims.load()
    for line, claim in zip(lines, known, strict=False):
        assert line.startswith(f"{claim.id} ")
        assert line.endswith(claim.title)
    assert lines[len(known) :] == [
        "why: `hograd claims ID --explain`",
        "`hograd claims --run` measures what is missing",
    ]
    explained = invoke("claims", "C2", "--explain", "--results", str(tmp_path), COLUMNS="60").stdout
    assert "refuted by: " in explained


def test_names_and_reasons_are_text_wherever_they_are_shown(tmp_path: Path) -> None:
    a_run(tmp_path, (hvp(8, "[bold]m"), "failed", SHOUTED, {}), (hvp(8), "ok", None, {"peak_bytes": 8}))
    for command in (("compare", "latest", "latest"), ("law", "--operator", "hvp", "--method", ":smile:\x1b[1m",
                    "--problem", "[/red]")):  # fmt: skip
        said = invoke(*command, "--results", str(tmp_path)).output
        assert "\x1b" not in said
        assert "😄" not in said
    assert "method: got ':smile:\\x1b[1m', expected one of [bold]m, double_backward:" in said

"""What reads results, and what only names the commands, does without the packages that measuring takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hograd_bench import schema, store
from hograd_bench.cells import Cell

_HEAVY = ("torch", "hograd_core", "matplotlib", "pandas")
_SCRIPT = """
import json, sys
from hograd_bench.cli import app
try:
    app(sys.argv[2:])
except SystemExit as stop:
    code = stop.code or 0
with open(sys.argv[1], "w") as file:
    json.dump([code, [name for name in {heavy} if name in sys.modules]], file)
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one small series."""
    root = tmp_path_factory.mktemp("results")
    for name in ("20260101-000000-aaaa", "20260102-000000-bbbb"):
        with store.create_run(root, {"machine": "m", "recorded": name}, name) as run:
            for n in (4, 8, 16, 32, 64):
                cell = Cell("derivative_vector_product", "double_backward", "sin_chain", n)
                run.append(schema.row(cell, "ok", metrics={"peak_bytes": 8 * n, "relative_error": 0.0}, numel=n))
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "allowed", "codes"),
    [
        (["--help"], set(), {0}),
        (["law", "--operator", "hvp", "--method", "double_backward", "--problem", "sin_chain"], {"pandas"}, {0}),
        (["claims"], {"pandas"}, {0}),
        (["compare", "20260101", "20260102"], {"pandas"}, {0, 1}),
        pytest.param(["report"], {"pandas", "matplotlib"}, {0}, marks=pytest.mark.slow),
    ],
)
def test_a_command_imports_only_what_it_needs(
    command: list[str], allowed: set[str], codes: set[int], results: Path, tmp_path: Path
) -> None:
    where = [] if command == ["--help"] else ["--results", str(results)]
    where += ["--reports", str(tmp_path)] if command == ["report"] else []
    said = tmp_path / "said.json"
    ran = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(heavy=_HEAVY), str(said), *command, *where],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    code, imported = json.loads(said.read_text())
    assert code in codes, ran.stderr + ran.stdout
    assert set(imported) <= allowed

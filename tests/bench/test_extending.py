"""docs/extending.md: what it says to write is taken, and every file that a page names is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import report_fakes as fakes
from hograd_bench import claims, store
from hograd_bench.claim_cells import needed_cells
from hograd_bench.metrics import Metric
from hograd_bench.peers import Peer
from hograd_bench.report.data import report_data
from hograd_bench.report.style import style

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "made")])
ROOMS = ("bench", "docs", "examples", "hograd_core", "tests")


def example(section: str, language: str = "python") -> str:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"```{language}\n(.*?)```", text.split(f"\n## {section}\n")[1].split("\n## ")[0], re.DOTALL)
    return found


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "docs/extending.md", "exec"), names)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_pages_name_are_there(page: Path) -> None:
    named = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_a_metric_and_a_peer() -> None:
    (metric,) = run(example("A metric"))["METRICS"]
    assert isinstance(metric, Metric)
    peer = run(example("A peer"))["PEER"]
    assert isinstance(peer, Peer)
    assert [m.operator for m in peer.methods] == ["derivative_vector_product"]


def test_a_claim(tmp_path: Path) -> None:
    (tmp_path / "claims.toml").write_text(example("A claim", "toml"), encoding="utf-8")
    (claim,) = claims.load(tmp_path / "claims.toml")
    sizes = {cell.n for cell in needed_cells(claim)}
    assert sizes == {8, 16, 24, 32, 40}


def test_a_figure(tmp_path: Path) -> None:
    fakes.write(tmp_path, "a", fakes.rows("a"))
    with style():
        (drawn,) = run(example("A figure"))["draw"](report_data(store.load(tmp_path)))
    assert "<svg" in drawn.panels[0]
    assert "Errors of" in drawn.panels[0]


@pytest.mark.slow
def test_a_method_and_an_operator(tmp_path: Path) -> None:
    """In a file of one's own; the operator is taken, the method measured and right."""
    imports = (
        "import hograd_core",
        "from hograd_core import derivative_vector_product",
        "from hograd_core._checks import Function, T, check_point, scalar_function",
        "from hograd_core._how import How, Unpack",
        "from hograd_core._registry import method, operator, to_method",
        "from hograd_bench.problems import problem",
    )
    body = "return torch.autograd.functional.vhp(f, x, v)[1]"
    method = re.sub(r"^    \.\.\.$", f"    {body}", example("A method"), flags=re.MULTILINE)
    assert body in method
    mine = """
import torch
@problem("mine", formula="f", source="here", family="elementwise", sizes={"n": "entries of x"})
def mine(spec, draw):
    return __import__("hograd_bench").problems.Instance(lambda x: x.sin().sum(), draw.normal(spec.n))
"""
    file = tmp_path / "mine.py"
    file.write_text("\n".join((*imports, method, example("An operator"), mine)), encoding="utf-8")
    asked = ("--problem-file", str(file), "--operator", "hvp", "--method", "my_method", "--n", "4", "--untimed")
    command = [sys.executable, "-m", "hograd_bench", "run", *asked, "--results", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (rows,) = (tmp_path / "results").rglob("rows.jsonl")
    (row,) = map(json.loads, rows.read_text(encoding="utf-8").splitlines())
    assert (row["method"], row["status"]) == ("my_method", "ok"), row["reason"]

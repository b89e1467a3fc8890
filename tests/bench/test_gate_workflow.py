"""The gate on GitHub: what a caller asks for is what runs, and its jobs do not meet."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

GITHUB = Path(__file__).parents[2] / ".github"
GATE = (GITHUB / "workflows/gate.yml").read_text(encoding="utf-8")
ACTION = (GITHUB / "actions/gate/action.yml").read_text(encoding="utf-8")
PULL_REQUEST = (GITHUB / "workflows/pull-request.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [GATE, ACTION], ids=["workflow", "action"])
def test_the_base_is_the_callers_on_every_event(text: str) -> None:
    assert re.findall(r" BASE: (.*)", text) == ["${{ inputs.base }}"]
    assert 'if [ -n "$BASE" ]; then arguments+=(--base "$BASE"); fi' in text, "empty: the committed baseline"


def test_no_event_comes_without_inputs() -> None:
    """An unset base is the default of the input, which only a call has."""
    events = re.findall(r"^  (\w+):", GATE[GATE.index("\non:") : GATE.index("\npermissions:")], re.MULTILINE)
    assert events == ["workflow_call"]
    assert "default: ${{ github.event.pull_request.base.sha || 'origin/main' }}" in GATE


def test_pull_requests_of_this_repository_pass_their_base() -> None:
    assert "uses: ./.github/workflows/gate.yml" in PULL_REQUEST
    assert "base: ${{ github.event.pull_request.base.sha || inputs.base }}" in PULL_REQUEST
    assert re.findall(r"^  (\w+):", PULL_REQUEST[: PULL_REQUEST.index("\npermissions:")], re.MULTILINE) == [
        "pull_request",
        "workflow_dispatch",
    ]


@pytest.mark.parametrize("line", [r"  group: gate-.*", r" name: hograd-gate.*"], ids=["concurrency", "artifact"])
def test_jobs_of_one_caller_are_told_apart(line: str) -> None:
    (found,) = re.findall(line, GATE)
    assert "inputs.id" in found


@pytest.mark.parametrize("text", [GATE, ACTION], ids=["workflow", "action"])
def test_inputs_reach_scripts_as_variables(text: str) -> None:
    scripts = re.findall(r"^( *)(?:- )?run: \|\n((?:\1 +.*\n|\n)+)", text, re.MULTILINE)
    assert scripts
    assert not [script for _, script in scripts if "${{" in script]


def test_what_is_used_is_pinned() -> None:
    used = re.findall(
        r"uses: (?!\./)(\S+)(.*)", "\n".join(f.read_text(encoding="utf-8") for f in GITHUB.rglob("*.yml"))
    )
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) and "# v" in version for action, version in used)


THEIRS = """
import torch

import hograd_bench


@hograd_bench.method("hessian", mode="reverse over reverse", source="theirs")
def theirs(f, x):
    x = x.detach().requires_grad_()
    (g,) = torch.autograd.grad(f(x), x, create_graph=True)
    return torch.stack([torch.autograd.grad(each, x, retain_graph=True)[0] for each in g])
"""


def script_of(text: str) -> str:
    """The shell script that runs the gate."""
    scripts = re.findall(r"^( *)(?:- )?run: \|\n((?:\1 +.*\n|\n)+)", text, re.MULTILINE)
    (found,) = (textwrap.dedent(script) for _, script in scripts if "hograd_bench gate" in script)
    return found


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that has nothing of hograd but a method of its own, made worse since its last commit."""
    repo = tmp_path_factory.mktemp("theirs")
    (repo / "their_methods.py").write_text(THEIRS, encoding="utf-8")
    who = ("-c", "user.name=them", "-c", "user.email=them@example.org")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-qm", "a method")):
        subprocess.run(["git", *words], cwd=repo, check=True)
    return repo


@pytest.mark.slow
@pytest.mark.parametrize(("text", "worse"), [(GATE, False), (ACTION, True)], ids=["workflow", "action"])
def test_the_script_gates_code_of_another_repository(text: str, worse: bool, theirs: Path, tmp_path: Path) -> None:
    planted = THEIRS.replace("torch.stack(", "torch.ones(1000) * 0 @ torch.ones(1000) + torch.stack(")
    (theirs / "their_methods.py").write_text(planted if worse else THEIRS, encoding="utf-8")
    cell = "derivative_tensor/theirs/quadratic/n=8,order=2,depth=1,batch=1/float32/cpu/t1/eager"
    given = {
        "BASE": "HEAD", "PLUGINS": "their_methods.py", "OPTIONS": f"--no-time --same-env --cell {cell}",
        "STRICT": "false",
        "PYTHON": sys.executable, "OUTPUT": "hograd-gate", "GITHUB_OUTPUT": str(tmp_path / "output"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    ended = subprocess.run(
        ["bash", "-e", "-c", script_of(text)], cwd=theirs, env={**os.environ, **given}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == worse, ended.stdout + ended.stderr
    said = json.loads((theirs / "hograd-gate" / "gate.json").read_text(encoding="utf-8"))
    assert {"gate.json", "gate.xml", "gate.md"} <= {file.name for file in (theirs / "hograd-gate").iterdir()}
    assert said["exit"] == worse
    assert any(found["metric"] == "peak_bytes" for found in said["findings"]) == worse
    if text == ACTION:
        assert (tmp_path / "output").read_text(encoding="utf-8") == f"code={worse:d}\n"

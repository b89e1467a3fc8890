"""The gate on GitHub: what a caller asks for is what runs, and its jobs do not meet."""

from __future__ import annotations

import re
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

"""The pytest plugin in other people's projects: it takes no name that could be theirs."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hograd_bench.sweeps import plugin

FOREIGN = """
import pytest

@pytest.fixture(params=[1, 2])
def planned(request):
    return request.param

@pytest.fixture
def measured(planned):
    return 10 * planned

@pytest.fixture
def number():
    return 3

def test_theirs(planned, measured, number):
    assert measured == 10 * planned and number == 3
"""


@pytest.mark.slow
def test_foreign_fixtures_of_any_name_are_theirs(tmp_path: Path) -> None:
    (tmp_path / "test_foreign.py").write_text(FOREIGN, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", plugin.__name__, str(tmp_path)]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout


def test_every_fixture_and_option_begins_with_hograd(request: pytest.FixtureRequest) -> None:
    fixtures = {name for name, value in vars(plugin).items() if isinstance(value, type(plugin.hograd_measured))}
    options = {name for each in request.config._parser.getgroup("hograd").options for name in each.names()}
    assert "hograd_measured" in fixtures
    assert "--hograd-preset" in options
    assert not [name for name in fixtures | options if not name.lstrip("-").startswith("hograd")]


def test_no_collection_of_a_cell_looks_at_what_earlier_cells_left() -> None:
    """A process would slow down with the number of its cells: to half its pace within a thousand."""
    reports: list[Any] = []
    in_sight: list[int] = []

    def protocol(item: Any, nextitem: Any) -> None:
        in_sight.append(len(gc.get_objects()))
        reports.append([[] for _ in range(1000)])

    hook = SimpleNamespace(pytest_runtest_protocol=protocol)
    items = [SimpleNamespace(config=SimpleNamespace(hook=hook)) for _ in range(5)]
    plugin.Batch([], lambda number: True, lambda row: None).pytest_runtestloop(SimpleNamespace(items=items))  # type: ignore[arg-type]
    gc.unfreeze()
    assert len(in_sight) == len(items)
    assert max(in_sight) - min(in_sight) < 500

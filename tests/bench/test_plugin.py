"""The pytest plugin in other people's projects: it takes no name that could be theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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

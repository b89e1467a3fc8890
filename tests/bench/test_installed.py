"""What is there without the extra `bench`, and what says so."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hograd_bench import __main__ as command
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUN = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
sys.argv = ["hograd", "list"]
from hograd_bench.__main__ import main
main()
"""


def without(*missing: str) -> subprocess.CompletedProcess[str]:
    code = RUN.format(missing=missing)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("missing", [command.BENCH, ("rich",)])
def test_the_command_names_the_extra_it_needs(missing: tuple[str, ...]) -> None:
    ended = without(*missing)
    assert ended.returncode == command.NOT_INSTALLED
    assert "Traceback" not in ended.stderr
    assert "pip install 'hograd[bench]'" in ended.stderr


def test_what_is_missing_of_somebody_elses_is_no_matter_of_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    from hograd_bench import cli

    def theirs() -> None:
        import a_module_that_nobody_has  # noqa: F401

    monkeypatch.setattr(cli, "main", theirs)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        command.main()


def test_the_modules_are_those_that_the_extra_brings() -> None:
    distributions = importlib.metadata.packages_distributions()
    declared = {Requirement(r).name for r in PROJECT["optional-dependencies"]["bench"]}
    brought = {module: {d.lower() for d in distributions.get(module, ())} for module in command.BENCH}
    for module, names in brought.items():
        assert not names or names & declared, f"{module} is of {names}"
    here = {name for names in brought.values() for name in names}
    assert declared <= here


@pytest.mark.slow
def test_the_kernels_need_torch_alone() -> None:
    code = RUN.split("sys.argv")[0].format(missing=command.BENCH) + (
        "import torch, hograd_core\n"
        "x = torch.ones(3)\n"
        "assert torch.equal(hograd_core.hvp(lambda x: (x**3).sum(), x, x), 6 * x)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_script_is_the_command() -> None:
    module, _, name = PROJECT["scripts"]["hograd"].partition(":")
    assert (module, getattr(command, name)) == (command.__name__, command.main)

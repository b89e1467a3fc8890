"""The built wheel, installed where nothing of this repository is: `nox -s wheel` builds it and names it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
WHEEL = os.environ.get("HOGRAD_WHEEL", "")
pytestmark = pytest.mark.skipif(not WHEEL, reason="HOGRAD_WHEEL names no wheel; nox -s wheel builds one and runs this")

CELL = "derivative_tensor/rows/quadratic/n=4,order=2,depth=1,batch=1/float32/cpu/t1/eager"


def needed(names: Iterable[str]) -> set[str]:
    """The distributions that these need, themselves among them, as far as they are installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        found.add(name)
        asked = [Requirement(text) for text in requires]
        waiting += [r.name for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


Run = Callable[..., subprocess.CompletedProcess[str]]


def installed(folder: Path, *names: str) -> Run:
    """An environment with the wheel, and links to these distributions of the one that runs the tests."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "--quiet",
        "--disable-pip-version-check",
        "install",
    ]
    subprocess.run([*install, "--no-deps", "--no-index", WHEEL], check=True)
    linked = folder / "linked"
    linked.mkdir()
    for name in needed(names):
        files = importlib.metadata.files(name) or []
        tops = {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}
        place = Path(str(importlib.metadata.distribution(name).locate_file("")))
        for top in tops:
            if not (linked / top).exists():
                (linked / top).symlink_to(place / top)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "linked.pth").write_text(f"{linked}\n", encoding="utf-8")
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(python.parent / command), *arguments],
            cwd=folder,
            env=outside,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """torch and pytest, without the extra."""
    return installed(tmp_path_factory.mktemp("alone") / "environment", "torch", "pytest")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """With the extra."""
    extra = [Requirement(r).name for r in importlib.metadata.requires("hograd") or [] if "extra ==" in r]
    return installed(tmp_path_factory.mktemp("full") / "environment", "torch", "hypothesis", "pytest-xdist", *extra)


def test_it_brings_two_packages_and_nothing_else() -> None:
    with zipfile.ZipFile(WHEEL) as file:
        names = file.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hograd_core", "hograd_bench"}
    for needed in (
        "hograd_core/py.typed",
        "hograd_bench/py.typed",
        "hograd_bench/presets.toml",
        "hograd_bench/facts.json",
    ):
        assert needed in names
    assert not [name for name in names if {"studies", "tests"} & set(name.split("/"))]


def test_the_kernels_and_the_pytest_plugin_need_torch_alone(alone: Run, tmp_path: Path) -> None:
    place = alone("python", "-c", "import hograd_core, torch; print(hograd_core.__file__)")
    assert place.returncode == 0, place.stderr
    assert "site-packages" in place.stdout
    page = (ROOT / "docs" / "your_project.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import pytest\n.*?)```", page, re.DOTALL)
    test = tmp_path / "test_example.py"
    test.write_text(example, encoding="utf-8")
    # A project of its own, wherever the temporary folder lies: numpy's absence, of which torch warns, is no error.
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    tests = alone("python", "-m", "pytest", "-q", "--strict-markers", "-k", "not growth", str(test))
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "2 passed" in tests.stdout


def test_the_command_says_which_extra_it_needs(alone: Run) -> None:
    said = alone("hograd", "list")
    assert (said.returncode, said.stdout) == (2, "")
    assert "pip install 'hograd[bench]'" in said.stderr
    assert "Traceback" not in said.stderr


def test_the_suite_measures_with_the_extra(full: Run) -> None:
    ran = full("hograd", "run", "--cell", CELL)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    listed = full("hograd", "list", "--json")
    assert listed.returncode == 0, listed.stderr


def test_tests_of_this_repository_pass_against_it(full: Run) -> None:
    tests = ["core/test_registry.py", "core/test_public_names.py", "bench/test_plugins.py"]
    files = [str(ROOT / "tests" / name) for name in tests]
    ended = full("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), *files)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr

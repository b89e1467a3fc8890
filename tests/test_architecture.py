"""One direction of imports, no way back (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "hograd_core"
BENCH = ROOT / "bench" / "hograd_bench"

DRAWN = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def drawn(heading: str) -> list[list[str]]:
    """The levels below a name in the drawing of docs/architecture.md, from the lowest, with their marks."""
    block = DRAWN.split(f"\n{heading}\n", 1)[1].split("```", 1)[0].split("\n\n", 1)[0]
    return [line.split() for line in block.splitlines()]


def ranks(heading: str) -> dict[str, int]:
    """Room -> its level."""
    return {room.rstrip("*="): level for level, line in enumerate(drawn(heading)) for room in line}


def marked(heading: str, mark: str) -> set[str]:
    """Rooms that carry a mark."""
    return {room.rstrip("*=") for line in drawn(heading) for room in line if room.endswith(mark)}


CORE_RANKS, BENCH_RANKS, GATE_RANKS = (ranks(name) for name in ("hograd_core", "hograd_bench", "hograd_bench.gate"))
RUNS_KERNELS, READS_ONLY = marked("hograd_bench", "*"), marked("hograd_bench", "=")


def rooms(package: Path) -> dict[Path, str]:
    """Every module of a package and the room, the first name below the package, it lies in."""
    return {
        path: path.relative_to(package).parts[0].removesuffix(".py")
        for path in package.rglob("*.py")
        if "__pycache__" not in path.parts
    }


def imported_names(path: Path) -> set[str]:
    """Absolute dotted names that a module imports, wherever in it; relative imports are refused."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(path: Path, package: str) -> set[str]:
    """Rooms of ``package`` that a module imports from."""
    inside = package + "."
    return {n.removeprefix(inside).split(".")[0] for n in imported_names(path) if n.startswith(inside)}


def violations(package: Path, name: str, levels: dict[str, int]) -> list[str]:
    """Imports against the direction."""
    found = []
    for path, room in rooms(package).items():
        for other in rooms_imported(path, name) & set(levels):
            if other != room and levels[other] >= levels[room]:
                found.append(f"{path.relative_to(ROOT)} ({room}) imports {other}")
    return found


def test_the_drawing_has_every_room_and_no_other() -> None:
    assert set(rooms(CORE).values()) == set(CORE_RANKS)
    assert set(rooms(BENCH).values()) == set(BENCH_RANKS)
    assert set(rooms(BENCH / "gate").values()) == set(GATE_RANKS)


def test_the_list_of_rooms_says_what_each_is_for() -> None:
    listed = DRAWN.split("## Rooms", 1)[1].split("\n## ", 1)[0]
    for room in {*CORE_RANKS, *BENCH_RANKS} - {"__init__", "__main__"}:
        assert re.search(rf"\b{room}(\.py|/)", listed), room


def test_what_runs_kernels_and_what_reads_frames_is_told_apart() -> None:
    assert {"problems", "measure", "engine", "driver", "run"} <= RUNS_KERNELS
    assert {"store", "schema", "compare", "laws", "claims", "report"} <= READS_ONLY


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "name", "levels"),
    [
        (CORE, "hograd_core", CORE_RANKS),
        (BENCH, "hograd_bench", BENCH_RANKS),
        (BENCH / "gate", "hograd_bench.gate", GATE_RANKS),
    ],
)
def test_imports_go_one_way(package: Path, name: str, levels: dict[str, int]) -> None:
    assert violations(package, name, levels) == []


@pytest.mark.slow
def test_prepared_kernels_know_inductor_in_one_folder() -> None:
    """And graphs know nothing of it, nor of what is made of them."""
    private = ("torch._inductor", "torch._dynamo", "torch._C._dynamo", "torch._C._aoti")
    package = CORE / "prepare"
    for path in rooms(CORE):
        if path.is_relative_to(package / "inductor"):
            below = {"graphs", "inductor"}
        else:
            assert not [n for n in imported_names(path) if n.startswith(private)], path.relative_to(ROOT)
            below = {"graphs"}
        if path.parent.name in ("graphs", "inductor"):
            assert rooms_imported(path, "hograd_core.prepare") <= below, path.relative_to(ROOT)


@pytest.mark.slow
def test_core_depends_on_torch_alone() -> None:
    # typing_extensions is torch's own requirement: who has torch has it.
    allowed = {*sys.stdlib_module_names, "torch", "typing_extensions", "hograd_core"}
    for path in rooms(CORE):
        outside = {n.split(".")[0] for n in imported_names(path)} - allowed
        assert not outside, f"{path.relative_to(ROOT)} imports {outside}"


@pytest.mark.slow
def test_nothing_right_of_results_runs_a_kernel() -> None:
    for path, room in rooms(BENCH).items():
        if room in READS_ONLY:
            forbidden = rooms_imported(path, "hograd_bench") & RUNS_KERNELS
            assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"
            assert not {"torch", "hograd_core"} & {n.split(".")[0] for n in imported_names(path)}, path


@pytest.mark.slow
def test_studies_are_for_the_repository_alone() -> None:
    """They are in no wheel, and nothing that is in one imports them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [ROOT / package for package in wheel] == [CORE, BENCH]
    assert not [path for path in rooms(BENCH) if any(n.split(".")[0] == "studies" for n in imported_names(path))]


def test_the_rule_notices_a_wrong_import(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "low.py").write_text("from pkg import high\n", encoding="utf-8")
    (package / "high.py").write_text("", encoding="utf-8")
    assert rooms_imported(package / "low.py", "pkg") == {"high"}

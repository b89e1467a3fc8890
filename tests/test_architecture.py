"""One direction of imports, no way back (docs/architecture.md)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
CORE = ROOT / "hograd_core"
BENCH = ROOT / "bench" / "hograd_bench"

# Each room may import from rooms of lower rank, and from itself.
CORE_RANKS = {
    "_entrance": 0, "_how": 0, "_forward": 0, "_reach": 0, "_unsupported": 0,
    "_checks": 1, "hazards": 1,
    "_differences": 2, "_finite": 2, "_functional": 2,
    "_registry": 3,
    "derivatives": 4, "reference": 4, "module": 4, "verification": 4,
    # Taylor mode registers itself as a method of the derivative operators.
    "taylor": 5, "curvature": 6, "solvers": 7, "applications": 7, "training": 8,
    "__init__": 9,
}  # fmt: skip
# What reads results may not import what runs kernels.
RUNS_KERNELS = {
    "patterns", "problems", "measure", "plan", "claim_cells", "engine", "driver", "run", "sweeps", "ceilings",
    "peers",
}  # fmt: skip
READS_ONLY = {"store", "schema", "cells", "units", "facts", "compare", "laws", "claims", "report"}
# Left to right; the command line and the entry points may use all of them.
BENCH_RANKS = {
    "cells": 0, "patterns": 0, "system_info": 0, "facts": 0, "own_files": 0,
    "problems": 1,
    "peers": 2,
    "metrics": 3, "environment": 3, "ceilings": 3,
    "schema": 4, "units": 4,
    "measure": 5,
    "plan": 6, "store": 6, "laws": 6, "compare": 7,
    "sweeps": 8, "claims": 8, "engine": 9, "claim_cells": 9,
    "driver": 10, "run": 11, "gate": 11, "report": 11,
    "cli": 12, "__main__": 13, "__init__": 13,
}  # fmt: skip

GATE_RANKS = {
    "outcome": 0, "statistics": 0, "agreement": 0,
    "preset": 1, "revisions": 1, "output": 1,
    "suite": 2, "exact": 2, "twins": 2,
    "run": 3, "cli": 4, "__init__": 5,
}  # fmt: skip


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


def violations(package: Path, name: str, ranks: dict[str, int]) -> list[str]:
    """Imports against the direction."""
    found = []
    for path, room in rooms(package).items():
        for other in rooms_imported(path, name) & set(ranks):
            if other != room and ranks[other] >= ranks[room]:
                found.append(f"{path.relative_to(ROOT)} ({room}) imports {other}")
    return found


def test_every_room_has_a_rank() -> None:
    assert set(rooms(CORE).values()) <= set(CORE_RANKS)
    assert set(rooms(BENCH).values()) <= set(BENCH_RANKS)
    assert set(rooms(BENCH / "gate").values()) <= set(GATE_RANKS)


@pytest.mark.parametrize(
    ("package", "name", "ranks"),
    [
        (CORE, "hograd_core", CORE_RANKS),
        (BENCH, "hograd_bench", BENCH_RANKS),
        (BENCH / "gate", "hograd_bench.gate", GATE_RANKS),
    ],
)
def test_imports_go_one_way(package: Path, name: str, ranks: dict[str, int]) -> None:
    assert violations(package, name, ranks) == []


def test_core_depends_on_torch_alone() -> None:
    # typing_extensions is torch's own requirement: who has torch has it.
    allowed = {*sys.stdlib_module_names, "torch", "typing_extensions", "hograd_core"}
    for path in rooms(CORE):
        outside = {n.split(".")[0] for n in imported_names(path)} - allowed
        assert not outside, f"{path.relative_to(ROOT)} imports {outside}"


def test_nothing_right_of_results_runs_a_kernel() -> None:
    for path, room in rooms(BENCH).items():
        if room in READS_ONLY:
            forbidden = rooms_imported(path, "hograd_bench") & RUNS_KERNELS
            assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"
            assert not {"torch", "hograd_core"} & {n.split(".")[0] for n in imported_names(path)}, path


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

"""docs/coverage.md is current, every promise is kept, and one that is broken is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from studies import coverage
from studies.coverage import World
from studies.coverage._named import EVERY_METHOD, read_tests

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world() -> World:
    return coverage.look_around(ROOT / "tests")


def systems(world: World, group: str) -> list[str]:
    return [fault for fault in coverage.faults(coverage.load(), world) if fault.startswith(f"{group}:")]


@pytest.mark.slow
def test_every_system_and_every_use_is_covered(world: World) -> None:
    faults = coverage.faults(coverage.load(), world)
    assert not faults, "not covered:\n" + "\n".join(faults)


def test_every_system_and_area_is_listed() -> None:
    ids = [group.id for group in coverage.load()]
    assert ids[:12] == [f"S{i}" for i in range(1, 13)]
    assert ids[12:] == [
        "Newton systems", "Curvature operators", "Spectrum", "Gradient penalty", "PINN", "MAML", "Order k",
    ]  # fmt: skip


@pytest.mark.slow
def test_every_operator_beyond_plain_derivatives_is_promised_somewhere(world: World) -> None:
    promised = {use.name for group in coverage.load() for item in group.items for use in item.uses}
    named = {o.name for o in world.operators.values() if {o.name, *o.aliases} & promised}
    # The gradient is what costs are measured in.
    assert set(world.operators) - named == {"gradient"}


def test_the_committed_table_is_current(world: World) -> None:
    written = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    assert written == coverage.render(coverage.load(), world), (
        "docs/coverage.md is not current: python -m studies.coverage --write docs/coverage.md"
    )


def test_a_removed_operator_is_noticed(world: World) -> None:
    operators = {name: o for name, o in world.operators.items() if name != "gradient_penalty"}
    assert "S9: operator gradient_penalty is not in the registry" in systems(replace(world, operators=operators), "S9")


def test_a_removed_method_is_noticed(world: World) -> None:
    kept = world.operators["derivative_vector_product"]
    less = replace(kept, methods={k: m for k, m in kept.methods.items() if k != "functional_hvp"})
    without = replace(world, operators={**world.operators, kept.name: less})
    assert systems(without, "S6")[0] == "S6: method hvp/functional_hvp is not in the registry"


def test_a_removed_function_is_noticed(world: World) -> None:
    without = replace(world, functions=world.functions - {"minimize_newton"})
    assert "Newton systems: minimize_newton() is not in hograd_core" in systems(without, "Newton systems")


def test_removed_tests_are_noticed(world: World) -> None:
    without = replace(world, tests=[t for t in world.tests if "newton_cg_step" not in t.core])
    assert "S8: no test names newton_cg_step/linearised" in systems(without, "S8")


def test_removed_cells_are_noticed(world: World) -> None:
    less = {name: [c for c in cells if c.operator != "meta_gradient"] for name, cells in world.presets.items()}
    without = replace(world, presets=less)
    assert "MAML: no preset has a cell of meta_gradient/unrolled" in systems(without, "MAML")


def test_a_removed_claim_is_noticed(world: World) -> None:
    without = replace(world, claims={name: cells for name, cells in world.claims.items() if name != "C13"})
    (fault,) = [fault for fault in systems(without, "S8") if "claim" in fault]
    assert fault == "S8: no claim has cells of newton_cg_step; add a part to claims.toml"


def test_only_cells_of_the_orders_named_count(world: World) -> None:
    less = {name: [c for c in cells if c.order < 3] for name, cells in world.presets.items()}
    assert any("no preset has a cell" in fault for fault in systems(replace(world, presets=less), "S11"))


SOURCE = """
import hograd_core as hg
from hograd_core.applications.maml import meta_gradient as learn

METHODS = ["unrolled"]
ALL = list(hg.hvp_like.methods)

def helper(name):
    return hg.kfac(name)

@pytest.fixture
def prepared():
    return hg.lanczos

@pytest.mark.parametrize("method", METHODS)
def test_by_alias(method):
    learn(method)

def test_by_helper():
    "xtrace"
    helper("a")

def test_by_fixture(prepared):
    prepared()

@pytest.mark.parametrize("method", ALL)
def test_all(method):
    other.kfac

def not_a_test():
    hg.hessian
"""


def test_names_are_found_through_aliases_helpers_and_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(SOURCE, encoding="utf-8")
    uses = {t.name: t for t in read_tests(tmp_path)}
    assert set(uses) == {"test_by_alias", "test_by_helper", "test_by_fixture", "test_all"}
    assert uses["test_by_alias"].core == {"meta_gradient"}
    assert "unrolled" in uses["test_by_alias"].words
    assert EVERY_METHOD not in uses["test_by_alias"].words
    assert uses["test_by_helper"].core == {"kfac"}  # a name in a string is no use
    assert uses["test_by_fixture"].core == {"lanczos"}
    assert uses["test_all"].core == {"hvp_like"}
    assert EVERY_METHOD in uses["test_all"].words


def test_a_folder_without_tests_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no test"):
        read_tests(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[group]]\nid = "A"\n', "A: got keys"),
        ('[[group]]\nid = "A"\n[[group.item]]\ntitle = "t"\n', "A: got an item"),
        ('[[group]]\nid = "A"\n[[group.item]]\nuses = ["x"]\nnotes = 1\n', "A: got an item"),
        ('[[group]]\nid = "A"\n[[group.item]]\nuses = ["x"]\n' * 2, "'A' occurs twice"),
    ],
)
def test_faults_of_the_file_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "coverage.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        coverage.load(path)

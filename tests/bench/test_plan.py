"""Plans: what a preset's data expand to, and the reason for every skip."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hograd_bench import claims, plan, problems
from hograd_bench import run as running
from hograd_bench.cells import Cell
from hograd_bench.plan import Planned, Sweep

import hograd_core


def test_star_means_every_method_and_every_problem_that_fits() -> None:
    planned = plan.expand(Sweep("hvp", n=(8,)))
    assert {p.cell.method for p in planned} == set(hograd_core.resolve("hvp")[0].methods)
    assert {p.cell.problem for p in planned} == set(problems.problems())
    assert {p.cell.order for p in planned} == {2}


def test_sizes_that_a_problem_does_not_have_are_not_swept() -> None:
    planned = plan.expand(Sweep("gradient", ("autograd",), ("quadratic", "sin_chain"), depth=(2, 3), batch=(1, 7)))
    assert [(p.cell.problem, p.cell.depth, p.cell.batch) for p in planned] == [
        ("quadratic", 1, 1),
        ("sin_chain", 2, 1),
        ("sin_chain", 3, 1),
    ]


def test_an_order_that_a_method_lacks_is_skipped_with_the_reason() -> None:
    planned = plan.expand(Sweep("derivative_vector_product", ("functional_vhp",), ("quadratic",), order=(2, 3)))
    assert [p.skip is None for p in planned] == [True, False]
    assert "from 2 to 2" in (planned[1].skip or "")


def test_results_over_the_budget_are_skipped_with_both_figures() -> None:
    planned = plan.expand(Sweep("derivative_tensor", ("rows",), ("rosenbrock",), n=(10, 100), order=(3,)))
    kept, skipped = plan.within_budget(planned, budget=10_000)
    assert kept.skip is None
    assert "4,000,000 B" in (skipped.skip or "")
    assert "10,000 B" in (skipped.skip or "")


def test_merge_keeps_one_cell_with_all_families() -> None:
    cell = Cell("gradient", "autograd", "quadratic", 8, 1)
    merged = plan.merge([Planned(cell, ("memory",)), Planned(replace(cell, n=9)), Planned(cell, ("time", "accuracy"))])
    assert [p.cell.n for p in merged] == [8, 9]
    assert merged[0].families == ("accuracy", "memory", "time")


def test_planned_round_trips_through_json() -> None:
    planned = Planned(Cell("gradient", "autograd", "quadratic", 8, 1), ("memory",), "because")
    assert Planned.from_json(json.loads(json.dumps(planned.to_json()))) == planned


@pytest.mark.parametrize("name", plan.load_presets())
def test_every_preset_expands_without_a_repeated_cell(name: str) -> None:
    planned = plan.preset(name)
    assert len({p.cell for p in planned}) == len(planned) > 0
    assert all(Cell.parse(p.cell.id) == p.cell for p in planned)
    assert plan.load_presets()[name]["description"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"operator": "hesian"}, "operator: got 'hesian'"),
        ({"operator": "hvp", "methods": ["magic"]}, "method: got 'magic'"),
        ({"operator": "hvp", "problems": ["magic"]}, "problem: got 'magic'"),
        ({"operator": "hvp", "dtype": "int8"}, "dtype: got 'int8'"),
        ({"operator": "hvp", "families": "speed"}, "families: got 'speed'"),
        ({"operator": "hvp", "size": 3}, "unknown key 'size'"),
        ({"n": 3}, "no operator"),
    ],
)
def test_a_wrong_sweep_is_named(table: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=r"got|unknown|no operator") as caught:
        plan.expand(Sweep.from_table(table))
    assert said in str(caught.value)


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match=r"expected one of .*smoke"):
        plan.preset("nope")


def test_presets_name_claims_that_exist() -> None:
    known = {claim.id for claim in claims.load()}
    for name, table in plan.load_presets().items():
        assert set(table.get("claims", ())) <= known, name


@pytest.mark.slow
def test_an_untimed_run_leaves_out_what_was_only_to_be_timed() -> None:
    timed, exact = running.planned(running.Asked()), running.planned(running.Asked(timed=False))
    only = {p.cell for p in timed if p.families == ("time",)}
    assert only
    assert {p.cell for p in exact} == {p.cell for p in timed} - only
    assert all(p.families and "time" not in p.families for p in exact)


def test_planning_can_be_interrupted_and_a_factory_that_fails_is_no_reason_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(*_: object) -> None:
        raise raised

    monkeypatch.setattr(problems.Problem, "instance", build)
    raised: BaseException = ValueError()
    assert plan.census_here([("mlp", 5, 3, 7)]) == [None]
    raised = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        plan.census_here([("mlp", 6, 3, 7)])
    assert problems.numels([("mlp", 6, 3, 7)]) == [None]


def test_a_peer_is_not_asked_to_be_prepared_beside_itself() -> None:
    both = Sweep("hvp", ("double_backward", "jax"), ("mlp",), n=(4,), preparation=("eager", "compiled"))
    assert [(p.cell.method, p.cell.preparation) for p in plan.expand(both)] == [
        ("double_backward", "eager"), ("jax", "eager"), ("double_backward", "compiled"),
    ]  # fmt: skip
    (alone,) = plan.expand(replace(both, methods=("jax",), preparation=("compiled",)))
    assert alone.skip is not None  # JAX is not installed here, or prepares by itself

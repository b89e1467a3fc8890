"""The functions of examples/, as their users write them: advice on each, every printed program run, laws held to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hograd_bench import advise as advising
from hograd_bench import measure
from hograd_bench.advise._advice import Advice
from hograd_bench.advise._plan import cell
from hograd_bench.targets import Request, declared
from hograd_bench.targets._load import load

# What an advice finds within its budget depends on the machine: these are for a quiet one.
pytestmark = pytest.mark.skipif("HOGRAD_ADVISE" not in os.environ, reason="HOGRAD_ADVISE=1 takes minutes of one's own")

EXAMPLES = Path(__file__).parents[2] / "examples"
SIX = torch.Size([6])

# Where, its shape where it is f itself, and for which needs there is a method to take.
ALL = {"gradient", "hvp", "hessian_diagonal", "hessian"}
TARGETS: dict[str, tuple[str, tuple[int, ...] | None, set[str]]] = {
    "rosenbrock": ("f", (8,), ALL),
    "classifier": ("make", None, ALL),
    "clusters": ("make", None, ALL),
    "gaussian_process": ("make", None, ALL),
    "recurrent": ("make", None, ALL),
    "attention": ("make", None, {"gradient", "hvp"}),
    "pinn": ("make", None, ALL),
    "mixture": ("make", None, ALL),
    "unsupported": ("f", (6,), {"gradient"}),
}
QUICK = ("rosenbrock", "mixture")


def test_every_example_is_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(TARGETS)


@pytest.fixture(scope="module", params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TARGETS])
def advised(request: pytest.FixtureRequest) -> tuple[str, Advice]:
    """An example with the advice on it, given time enough to measure everything."""
    name: str = request.param
    target, shape, _ = TARGETS[name]
    where = Request(f"{EXAMPLES}/{name}.py:{target}", shape)
    return name, advising.advise_by_name(where, seconds=600)


def test_there_is_a_method_for_what_pytorch_can_differentiate(advised: tuple[str, Advice]) -> None:
    name, advice = advised
    assert not advice.lost, advice.lost + advice.lost_more
    assert {r.need.name for r in advice.rankings if r.best is not None} == TARGETS[name][2]
    for ranking in advice.rankings:
        for each in ranking.ranked:
            assert each.status != "not measured"
            assert each.status == "ok" or each.reason


def test_the_printed_program_runs_and_is_right(advised: tuple[str, Advice], monkeypatch: pytest.MonkeyPatch) -> None:
    name, advice = advised
    scope: dict[str, Any] = {}
    import sys

    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, name, raising=False)  # examples have short names
    exec(compile(advice.snippet(), f"{name} as printed", "exec"), scope)
    sys.modules.pop(name, None)
    import hograd_core

    if "H" in scope:
        args = {"args": scope["args"]} if "args" in scope else {}
        columns = hograd_core.hessian(scope["f"], scope["x"], method="rows", flat=True, **args)
        given = hograd_core.hessian(scope["f"], scope["x"], method=best(advice, "hessian"), flat=True, **args)
        torch.testing.assert_close(given, columns, rtol=1e-3, atol=1e-4 * float(columns.abs().max()))
    assert {"g", "hv", "d", "H"} & set(scope) == {
        {"gradient": "g", "hvp": "hv", "hessian_diagonal": "d", "hessian": "H"}[need] for need in TARGETS[name][2]
    }


def test_what_is_foretold_at_eight_times_the_size_is_what_is_measured_there(advised: tuple[str, Advice]) -> None:
    name, advice = advised
    request = Request.from_json(advice.request)
    if not advice.described["law_sizes"]:
        assert name == "gaussian_process"
        return
    told = [f for f in advice.foretold if f.method]
    assert told or name == "attention"
    with declared(load(request)) as problem:
        for each in told:
            ranking = next(r for r in advice.rankings if r.need.name == each.need)
            if ranking.need.calls(advice.described["numel"] * each.n // advice.described["n"]) > 600:
                continue  # measuring it takes minutes
            there = cell(advice.described, problem, ranking.need, each.method, each.n)
            row = measure.measure(there, ("memory",))
            assert row["status"] == "ok", row["reason"]
            assert row["metrics"]["peak_bytes"] == each.bytes, f"{each.text}; {each.law}"


def best(advice: Advice, need: str) -> str:
    found = next(r.best for r in advice.rankings if r.need.name == need)
    assert found is not None
    return found.method

"""The atlas: what torch does now is what the committed facts say; planted faults are found."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from studies.atlas import facts, families
from studies.atlas.__main__ import DATA, orders, part, version
from studies.atlas.cases import Case, cases, scalar
from studies.atlas.page import amount, page
from studies.atlas.probe import TOLERANCE, Finding, Outcome, attempt, probe
from studies.atlas.reproductions import PROGRAMS, outcome
from studies.atlas.run import Worker, findings, recorded, run
from studies.atlas.truth import DoubtError, gradient, truth
from torch import Tensor

import hograd_core

VERSIONS = facts.versions(DATA)
HERE = VERSIONS.get(version())
MEND = "if that is right, run `nox -s atlas` and commit docs/data and docs/atlas.md"
# One operator of each family, and a spread of the rest.
OPERATORS = (
    "nn.functional.layer_norm", "nn.functional.batch_norm", "nn.functional.instance_norm", "own.weight_norm",
    "linalg.det", "linalg.slogdet", "linalg.solve", "cholesky_inverse", "linalg.householder_product",
    "scatter_reduce.prod", "own.masked_select broadcast input", "logcumsumexp", "triangular_solve", "cumprod",
    "linalg.eigvals", "exp", "matmul", "nn.functional.silu", "nn.functional.group_norm", "nn.functional.conv2d",
    "own.Function once_differentiable", "own.Function", "own.checkpoint reentrant", "own.nn.PReLU one",
    "own.cdist near", "own.nn.GRUCell", "softmax", "prod", "fft.rfft", "index_put", "nn.functional.gelu", "sinc",
)  # fmt: skip


def at(case: Case) -> Finding:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return probe(case)


def cube() -> Case:
    return Case("cube", "own", lambda xs: xs[0] ** 3, (torch.tensor([0.3, -0.5], dtype=torch.float64),))


def by_facts(found: Finding) -> facts.Statuses:
    """The statuses of one finding as the facts would keep them."""
    import json
    from dataclasses import asdict

    return facts.statuses(facts.line("x", [json.loads(json.dumps(asdict(found)))]), orders())


@pytest.mark.slow
@pytest.mark.skipif(HERE is None, reason=f"no facts of torch {version()} lie in docs/data; `nox -s atlas` makes them")
@pytest.mark.parametrize("name", OPERATORS)
def test_statuses_are_those_of_the_facts(name: str) -> None:
    assert HERE is not None
    known = {operator["op"]: operator for operator in HERE["operators"]}
    assert name in known, f"{name}: not in the facts of torch {version()}; {MEND}"
    recorded = facts.statuses(known[name], HERE["methods"])
    now = by_facts(at(cases(name, 1)[0]))
    common = recorded.keys() & now.keys()
    assert common or not now, f"{name}: its first sample is not in the facts; {MEND}"
    # Which errors are known for limits of PyTorch is hograd's own table, which grows.
    same = {"raised": "unsupported"}
    changed = {f"{m} at order {k}": f"{recorded[s, k, m]} -> {now[s, k, m]}" for s, k, m in common
               if same.get(recorded[s, k, m], recorded[s, k, m]) != same.get(now[s, k, m], now[s, k, m])}  # fmt: skip
    assert not changed, f"{name}: {changed}; {MEND}"


@pytest.mark.skipif(HERE is None, reason=f"no facts of torch {version()} lie in docs/data")
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_reproductions_come_out_as_the_facts_say(name: str) -> None:
    assert HERE is not None
    assert outcome(name) == HERE["reproductions"][name], MEND


def test_every_reproduction_belongs_to_a_family() -> None:
    named = [program for family in families.FAMILIES for program in family.programs]
    assert sorted(named) == sorted(PROGRAMS)
    assert len(set(named)) == len(named)


def test_the_page_is_that_of_the_facts() -> None:
    written = (DATA.parent / "atlas.md").read_text(encoding="utf-8")
    assert written == page(VERSIONS), "run `nox -s atlas -- page`"


def test_right_methods_are_right() -> None:
    found = at(cube())
    assert not found.doubts
    assert {o.status for o in found.outcomes} == {"right"}


def test_a_planted_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    record = hograd_core.operators()["derivative_vector_product"].methods["double_backward"]
    kernel = record.function
    monkeypatch.setattr(type(record), "__setattr__", object.__setattr__)
    monkeypatch.setattr(record, "function", lambda f, x, v, *, order: kernel(f, x, v, order=order) * 1.05)
    wrong = {(o.method, o.order) for o in at(cube()).outcomes if o.status == "wrong"}
    assert wrong == {("double_backward", 2), ("double_backward", 3)}


def test_a_planted_wrong_truth_is_found() -> None:
    f, z = scalar(cube())
    v = torch.ones_like(z)
    want = truth(f, z, v)
    bad = type(want)(want.v, {k: p * 1.05 for k, p in want.products.items()}, want.floor, {})
    for order in TOLERANCE:
        assert attempt("derivative_vector_product", "double_backward", order, f, z, [want]).status == "right"
        assert attempt("derivative_vector_product", "double_backward", order, f, z, [bad]).status == "wrong"


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0] ** 2


@pytest.mark.parametrize(
    ("f", "why"),
    [
        (lambda x: _WrongGradient.apply(x).sum(), "not that of the values"),
        (lambda x: (x / 0).sum(), "not finite"),
        (lambda x: (x * torch.rand(2, dtype=x.dtype)).sum(), "random"),
    ],
)
def test_no_truth_where_there_is_none(f: Callable[[Tensor], Tensor], why: str) -> None:
    x = torch.tensor([0.3, 0.5], dtype=torch.float64)
    with pytest.raises(DoubtError, match=why):
        truth(f, x, torch.ones_like(x))


def test_a_kink_is_a_doubt() -> None:
    x = torch.zeros(2, dtype=torch.float64)
    want = truth(lambda x: (x + x.abs() * x).sum(), x, torch.ones_like(x), (2, 3))
    assert set(want.doubts) == {3}
    assert set(truth(lambda x: (x + x.relu().square()).sum(), x, torch.ones_like(x)).doubts) == {3}


def test_truth_is_the_closed_form() -> None:
    x = torch.tensor([0.3, 0.5], dtype=torch.float64)
    v = torch.tensor([1.0, -2.0], dtype=torch.float64)
    want = truth(lambda x: x.exp().prod(), x, v)
    value = float(x.sum().exp())
    assert gradient(lambda x: x.exp().prod(), x).tolist() == pytest.approx([value, value])
    assert want.products[2].tolist() == pytest.approx([-value, -value], rel=1e-5)
    assert want.products[3].tolist() == pytest.approx([value, value], rel=1e-4)


def finding(**changed: Any) -> dict[str, Any]:
    outcome = {"method": "rows", "order": 2, "status": "right", "error": 1e-9, "message": ""} | changed
    return {"sample": "[2]", "doubts": {}, "nodes": ["XBackward0"], "outcomes": [outcome]}


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({}, "right"),
        ({"status": "wrong", "error": 0.4}, "wrong"),
        ({"status": "unsupported", "error": None, "message": "m"}, "unsupported"),
        ({"status": "nonfinite", "error": None}, "nonfinite"),
        ({"status": "wrong", "error": 0.0012}, None),
        ({"status": "right", "error": 0.0009}, None),
    ],
)
def test_facts_give_statuses_back(changed: dict[str, Any], status: str | None, tmp_path: Path) -> None:
    path = tmp_path / "atlas-9.9.9.json"
    facts.write(path, {"torch": "9.9.9", "methods": {"rows": [2]}}, [facts.line("op", [finding(**changed)])])
    found = facts.statuses(facts.read(path)["operators"][0], {"rows": [2]})
    assert found == ({} if status is None else {("[2]", 2, "rows"): status})


def test_doubted_samples_are_not_judged() -> None:
    doubted = {"sample": "[3]", "doubts": {"0": "f is random"}, "nodes": [], "outcomes": []}
    line = facts.line("op", [finding(), doubted])
    assert facts.statuses(line, {"rows": [2]}) == {("[2]", 2, "rows"): "right"}


def test_page_says_what_changed_between_versions() -> None:
    def version_of(name: str, **changed: Any) -> dict[str, Any]:
        line = facts.line("some.op", [finding(**changed)])
        return {
            "torch": name,
            "settings": {"samples": 1},
            "methods": {"rows": [2]},
            "operators": [line],
            "reproductions": {},
        }

    old, new = version_of("1.0.0", status="wrong", error=0.5), version_of("1.1.0")
    text = page({"1.0.0": old, "1.1.0": new})
    assert "| `some.op` | 2 | wrong | right | rows |" in text
    assert "### Not traced to a formula yet" in text


def test_a_short_run_takes_what_is_not_right_and_a_fifth_of_the_rest() -> None:
    right = [facts.line(f"op{i}", [finding()]) for i in range(10)]
    wrong = facts.line("wrong", [finding(status="wrong", error=0.5)])
    taylor = facts.line("z", [finding(status="unsupported", method="taylor", error=None)])
    known = [*(f"op{i}" for i in range(10)), "own.new", "wrong", "z"]
    assert part({"operators": [*right, wrong, taylor]}, known) == ["op0", "op5", "own.new", "wrong", "z"]


def test_amounts() -> None:
    assert amount([0.5]) == "0.5"
    assert amount([0.01, 2000.0]) == "0.01–>1000"


def test_outcomes_are_plain_records() -> None:
    assert Outcome("rows", 2, "right").message == ""


FAKE = """
import json, os, sys, time
for line in sys.stdin:
    name, _ = json.loads(line)
    print(json.dumps({"sample": "one"}), flush=True)
    if name == "crashes":
        os._exit(9)
    if name == "hangs":
        time.sleep(3600)
    print(json.dumps({"finding": {"sample": "one", "doubts": {}, "nodes": [], "outcomes": []}}))
    print(json.dumps({"done": name}), flush=True)
"""


def fake() -> Worker:
    return Worker("-c", FAKE)


def test_a_crash_costs_that_operator_only() -> None:
    found = dict(findings(["a", "crashes", "b", "c"], jobs=2, limit=1, worker=fake))
    assert set(found) == {"a", "crashes", "b", "c"}
    assert "ended with exit code 9" in found["crashes"][0]["doubts"]["0"]
    assert all(not found[name][0]["doubts"] for name in "abc")


def test_a_hanging_operator_is_ended() -> None:
    found = dict(findings(["hangs"], jobs=1, limit=1, seconds=0.1, worker=fake))
    assert "no answer" in found["hangs"][0]["doubts"]["0"]


def test_a_run_goes_on_where_it_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(names: list[str], **_: Any) -> Any:
        asked.extend(names)
        return iter([(name, []) for name in names])

    monkeypatch.setattr("studies.atlas.run.findings", answer)
    path = tmp_path / "partial.jsonl"
    path.write_text('["a", []]\n["b", [', encoding="utf-8")
    run(["a", "b", "c"], path, jobs=1, limit=1, say=lambda _: None)
    assert asked == ["b", "c"]
    assert set(recorded(path)) == {"a", "b", "c"}

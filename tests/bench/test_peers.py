"""Peers: what they declare, and what becomes of their cells."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hograd_bench import driver, measure, peers, plan
from hograd_bench.cells import Cell
from hograd_bench.cli import app
from hograd_bench.gate import preset
from hograd_bench.metrics import Subject, accuracy
from hograd_bench.peers import Peer, Prepared, Task, _contract
from hograd_bench.problems import Spec, get
from typer.testing import CliRunner

import hograd_core
from hograd_core import UnsupportedError

ROOT = Path(__file__).parents[2]
HVP = Cell("derivative_vector_product", "p", "quadratic", 4)
FAMILIES = ("accuracy", "memory", "counts", "time", "peer")


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def task(operator, problem, n, depth=1, batch=1, dtype="float32"):
    instance = get(problem).instance(Spec(n, depth, batch), getattr(torch, dtype))
    return Task(Cell(operator, "p", problem, n, 2, depth, batch, dtype), instance)


def right(task):
    """The right product."""
    (g,) = torch.autograd.grad(task.f(x := task.x.clone().requires_grad_()), x, create_graph=True)
    return torch.autograd.grad(g, x, task.v)[0]


@pytest.fixture
def known(monkeypatch):
    """Makes peers that exist nowhere the only ones."""

    def use(*made):
        monkeypatch.setattr(peers, "peers", lambda: {p.name: p for p in made})

    return use


@pytest.fixture
def measured(known):
    """Measures the Hessian-vector product of a peer made of a function task -> result, or of an exception to raise."""

    def run(compute, value=Task.value, framework="PyTorch", **prepared):
        made = Peer("p", distribution="torch", home="nowhere", framework=framework)

        @made.method("hvp", "p(f)", note="a note")
        def build(task):
            def call():
                if isinstance(compute, BaseException):
                    raise compute
                return compute(task)

            return Prepared(call, lambda: value(task), **prepared)

        known(made)
        return measure.measure(HVP, FAMILIES, timer=lambda call: [call() is None or 1e-3 for _ in range(5)])

    return run


def test_the_packages_that_the_project_names_are_there():
    assert {p.distribution for p in peers.peers().values()} >= {
        "curvlinops-for-pytorch", "backpack-for-pytorch", "hessian-eigenthings", "pounce-solver", "pytorch-minimize",
        "jax",
    }  # fmt: skip
    assert {"jax", "jax_jet"} <= {m.name for m in peers.peers()["jax"].methods}


@pytest.mark.slow
def test_no_peer_is_imported_by_looking_at_its_file():
    code = "import sys; from hograd_bench.peers import peers; peers(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"curvlinops", "backpack", "hessian_eigenthings", "pounce", "torchmin", "jax"} & set(done.stdout.split())


@pytest.mark.parametrize("name", peers.peers())
def test_what_pip_installs_for_a_peer_is_pinned(name):
    wanted = {normal(r) for r in peers.peers()[name].requires}
    assert normal(peers.peers()[name].distribution) in wanted
    text = (ROOT / "constraints-peers.txt").read_text(encoding="utf-8")
    assert wanted <= {normal(line.partition("==")[0]) for line in text.splitlines() if "==" in line}


def test_the_optional_group_names_exactly_the_peers():
    group = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["peers"]
    named = {normal(re.match(r"[A-Za-z0-9._-]+", entry)[0]) for entry in group}
    assert named == {normal(p.distribution) for p in peers.peers().values()}


def test_every_method_of_a_peer_enters_a_contest_and_every_contest_has_hograds_exact_methods_and_a_rival():
    contests = defaultdict(set)
    for cell in (p.cell for p in plan.preset("peers")):
        contests[cell.operator, cell.problem, cell.n, cell.order, cell.dtype].add(cell.method)
    for (name, *_, order, _), methods in contests.items():
        operator, _ = hograd_core.resolve(name)
        exact = {m.name for m in operator.methods.values() if m.exact}
        assert exact
        assert methods - exact
        assert methods == exact | {m.name for m in peers.methods(operator) if m.supports(order)}
    used = {(operator, m) for (operator, *_), methods in contests.items() for m in methods}
    assert {(m.operator, m.name) for p in peers.peers().values() for m in p.methods} <= used


@pytest.mark.slow
def test_no_registry_of_hograd_knows_of_peers():
    theirs = {m.name for p in peers.peers().values() for m in p.methods}
    for operator in hograd_core.operators().values():
        assert not theirs & set(operator.methods)
    for name in ("local_minimum", "kfac_vector_product"):  # found by name alone
        assert hograd_core.resolve(name)[0].name not in hograd_core.operators()
    for name in set(plan.load_presets()) - {"peers"}:
        assert not theirs & {p.cell.method for p in plan.preset(name)}


def test_a_peer_declares_a_method_once_and_has_a_plain_name():
    made = Peer("p", distribution="d", home="h")
    made.method("hvp", "w")(lambda task: None)
    made.method("hessian", "w")(lambda task: None)
    made.method("hvp", "w", variant="other")(lambda task: None)
    with pytest.raises(ValueError, match=r"derivative_vector_product\[p\] is declared twice"):
        made.method("hvp", "w")
    with pytest.raises(ValueError, match=r"\[taylor\] is declared twice"):
        Peer("taylor", distribution="d", home="h").method("laplacian", "w")
    with pytest.raises(ValueError, match="operator: got 'magic'"):
        made.method("magic", "w")
    with pytest.raises(ValueError, match="expected lower-case letters"):
        Peer("p|q", distribution="d", home="h")


def test_a_method_is_found_by_its_name_and_an_unknown_one_is_told_what_there_is(known):
    made = Peer("p", distribution="torch", home="h")
    made.method("hvp", "w")(right)
    known(made)
    operator, _ = hograd_core.resolve("hvp")
    (pair,) = preset.with_methods([replace(HVP, method="rows")], "double_backward", "p")
    assert [c.method for c in pair] == ["double_backward", "p"]
    assert peers.find(operator, "p", 2).source == "torch: w"
    assert peers.find(operator, "double_backward") is operator.methods["double_backward"]
    with pytest.raises(ValueError, match=r"expected one of .*double_backward.* or a peer's: p, for derivative_vector"):
        peers.find(operator, "q")
    (third,) = plan.expand(plan.Sweep("derivative_vector_product", ("p",), ("mlp",), order=(3,)))
    assert "orders from 2 to 2" in third.skip


def test_each_peer_has_processes_of_its_own(known):
    pair = [Peer(name, distribution="torch", home="h") for name in ("p", "q")]
    for made in pair:
        made.method("hvp", "w")(right)
    known(*pair)
    asked = []

    class Engine:
        def run(self, tasks, wanted):
            asked.extend(tasks)
            yield from ()

    plans = plan.expand(plan.Sweep("hvp", ("double_vjp", "p", "double_backward", "q"), ("quadratic",)))
    driver.execute(plans, SimpleNamespace(finished_cells=dict), Engine(), isolate="never")
    hosts = {task.cell.method: task.host for task in asked}
    assert hosts["double_vjp"] == hosts["double_backward"] != hosts["p"] != hosts["q"] != hosts["double_vjp"]


def test_a_task_says_what_its_problem_lacks():
    with pytest.raises(LookupError, match="quadratic provides no 'module'"):
        task("hvp", "quadratic", 3).extra("module")
    digits = task("hvp", "digits_loss", 2, 1, 3)
    assert isinstance(digits.loss_module, torch.nn.CrossEntropyLoss)
    parts = digits.split(digits.v)
    assert [p.shape for p in parts] == [p.shape for p in digits.extra("module").parameters()]
    assert torch.equal(torch.cat([p.reshape(-1) for p in parts]), digits.v)


@pytest.mark.slow
def test_a_right_result_is_timed_weighed_and_counted_as_any_methods(measured):
    row = measured(right)
    assert row["status"] == "ok"
    metrics = row["metrics"]
    assert metrics["relative_error"] <= metrics["tolerance"]
    assert metrics["gradient_equivalents"] == metrics["seconds_min"] / metrics["gradient_seconds"] > 0
    assert metrics["peak_bytes"] > 0
    assert metrics["aten_calls"] > 0
    assert metrics["prepare_seconds"] > 0
    assert metrics["function_error"] < 1e-6
    assert row["missing"]["guard_ratio"] == "a peer's method passes no guard of hograd"
    assert row["missing"]["f_calls"] == "p takes no f"


@pytest.mark.slow
def test_a_list_of_parts_is_one_vector_and_another_form_is_what_the_peer_says(measured):
    assert measured(lambda task: list(right(task).split(2)))["status"] == "ok"
    assert measured(lambda task: {"v": right(task)}, tensors=lambda result: result["v"])["status"] == "ok"


@pytest.mark.parametrize(
    ("compute", "status", "reason"),
    [
        (lambda task: right(task) * 1.01, "wrong", "relative error"),
        (lambda task: right(task)[:-1], "wrong", "of another shape than truth"),
        (lambda task: right(task) * float("nan"), "wrong", "not finite"),
        (ValueError("no | good\nsecond line"), "failed", "ValueError: no | good"),
        (LookupError("loss: unknown"), "unsupported", "loss: unknown"),
        (KeyError("loss"), "failed", "KeyError: 'loss'"),
        (UnsupportedError("op", "PyTorch lacks it"), "unsupported", "PyTorch lacks it"),
        (RuntimeError("Trying to use forward AD with x that does not support it"), "unsupported", "no forward-mode"),
        (RuntimeError("boom"), "failed", "RuntimeError: boom"),
        (MemoryError(), "oom", "MemoryError"),
        (ModuleNotFoundError("No module named 'x'"), "failed", "No module named 'x'"),
    ],
)
def test_what_goes_wrong_is_a_row_with_its_reason_and_without_times(measured, compute, status, reason):
    row = measured(compute)
    assert (row["status"], reason in row["reason"]) == (status, True), row["reason"]
    assert not {"seconds_min", "seconds_median", "peak_bytes"} & set(row["metrics"])


def test_another_function_is_found_before_its_result_is_looked_at(measured):
    row = measured(lambda task: right(task) * 2, value=lambda task: task.value() + 1)
    assert row["status"] == "wrong"
    assert row["reason"].startswith("its function is another one")


@pytest.mark.slow
def test_an_instrument_of_another_framework_has_names_of_its_own_and_pytorchs_see_nothing(measured):
    row = measured(right, framework="JAX", readings=lambda: {"xla_peak_bytes": 7, "compile_seconds": 0.5})
    assert row["status"] == "ok"
    assert (row["metrics"]["xla_peak_bytes"], row["metrics"]["compile_seconds"]) == (7, 0.5)
    for name in ("peak_bytes", "aten_calls"):
        assert row["missing"][name] == "JAX runs it, of which PyTorch's instruments see nothing"
    assert measured(right)["missing"]["xla_peak_bytes"] == "the peer has no such figure"


@pytest.mark.slow
def test_an_instrument_that_fails_is_no_failure_of_the_method(measured):
    def broken():
        raise ValueError("no such counter")

    row = measured(right, readings=broken)
    assert row["status"] == "ok"
    assert row["missing"]["xla_peak_bytes"] == "the instrument failed: ValueError: no such counter"


def test_hograds_own_rows_have_no_figures_of_peers():
    row = measure.measure(Cell("gradient", "autograd", "quadratic", 4, 1), FAMILIES)
    assert row["status"] == "ok"
    assert not {"function_error", "xla_peak_bytes"} & {*row["metrics"], *row["missing"]}


def test_a_package_that_is_not_there_is_skipped_with_why(known, tmp_path, monkeypatch):
    gone = Peer("gone", distribution="no-such-distribution", home="nowhere", requires=("its-distribution",))
    gone.method("hvp", "w")(lambda task: None)
    known(gone)
    sweep = plan.Sweep("hvp", ("exact", "peers"), ("quadratic",))
    skips = {p.cell.method: p.skip for p in plan.expand(sweep)}
    assert skips.pop("gone") == "no-such-distribution is not installed; `nox -s peers` does"
    assert set(skips.values()) == {None}
    assert peers.packages([replace(HVP, method="gone"), replace(HVP, method="double_backward")]) == {"its-distribution"}
    monkeypatch.setattr(_contract, "NOT_INSTALLED", tmp_path / "why.json")
    (tmp_path / "why.json").write_text('{"gone": "ERROR: no matching distribution"}', encoding="utf-8")
    planned = plan.expand(sweep)
    assert planned[-1].skip == "could not be installed: ERROR: no matching distribution"
    told = plan.facts(p.cell for p in planned)["peers"]["gone"]
    assert told["absence"] == planned[-1].skip
    assert told["methods"] == {"derivative_vector_product/gone": {"how": "w", "note": ""}}


def test_truth_of_kfac_is_the_definition_that_hograd_computes_by_another_route():
    subject = Subject(Cell("kfac_vector_product", "expectation", "digits_loss", 3, 2, 2, 5, "float64"))
    judged = accuracy.judge(subject)
    assert judged.error < 1e-12
    assert judged.error <= judged.allowed == 64 * 16 * torch.finfo(torch.float64).eps
    assert "exceeds" in accuracy.against(subject, [subject.call() * 1.001], subject.precise(), "here")


def test_the_minimum_on_paper_is_one_and_an_unknown_one_is_refused():
    instance = get("rosenbrock").instance(Spec(6))
    value = instance.extras["known_minimum"].requires_grad_()
    (gradient,) = torch.autograd.grad(instance.f(value), value)
    assert float(gradient.abs().max()) == 0
    with pytest.raises(ValueError, match=r"'quadratic' does not provide known_minimum, which local_minimum needs"):
        plan.expand(plan.Sweep("local_minimum", problems=("quadratic",)))


@pytest.mark.slow
def test_the_command_names_peers_where_it_is_asked_and_what_pip_installs():
    listed = json.loads(CliRunner().invoke(app, ["list", "--peers", "--json"]).stdout)["peers"]
    assert "curvlinops-for-pytorch" in next(p for p in listed if p["name"] == "curvlinops")["requires"]
    assert "curvlinops" in CliRunner().invoke(app, ["list", "--peers"]).stdout
    assert "curvlinops-for-pytorch" not in CliRunner().invoke(app, ["list"]).stdout

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hograd_bench.peers import Contest, Peer, Task, _contests, _truth, peers
from hograd_bench.problems import get

import hograd_core
from hograd_core.curvature import kfac

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
OWN_OPERATORS = {"minimize", "kfac"}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned():
    text = (ROOT / "constraints-peers.txt").read_text(encoding="utf-8")
    return {normal(line.partition("==")[0]) for line in text.splitlines() if "==" in line}


def test_the_packages_that_the_project_names_are_there_and_hograd_comes_first():
    assert next(iter(peers())) == "hograd"
    assert {p.distribution for p in peers().values()} >= {
        "curvlinops-for-pytorch", "backpack-for-pytorch", "hessian-eigenthings", "pytorch-minimize", "jax",
    }  # fmt: skip
    assert {"JAX", "jax.experimental.jet"} <= set(peers())


def test_no_peer_is_imported_by_looking_at_its_adapter():
    code = "import sys; from hograd_bench.peers import peers; peers(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = {p.module.partition(".")[0] for p in peers().values()} - {"hograd_core"}
    assert foreign
    assert not foreign & set(done.stdout.split())


@pytest.mark.parametrize("name", [n for n in peers() if n != "hograd"])
def test_what_pip_installs_for_a_peer_is_pinned(name):
    wanted = {normal(r) for r in peers()[name].requires}
    assert normal(peers()[name].distribution) in wanted
    assert wanted <= pinned()


def test_the_optional_group_names_exactly_the_peers():
    group = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["peers"]
    named = {normal(re.match(r"[A-Za-z0-9._-]+", entry)[0]) for entry in group}
    assert named == {normal(p.distribution) for p in peers().values() if p.name != "hograd"}


def test_every_offer_of_a_peer_enters_a_contest_and_every_contest_has_hograd_and_a_rival():
    contests = _contests.contests()
    for peer in peers().values():
        if peer.name != "hograd":
            used = {o.way for c in contests for o in peer.offered(c)}
            assert used == {o.way for o in peer.offers}, peer.name
    for contest in contests:
        entered = {p.name for p in peers().values() if p.offered(contest)}
        assert "hograd" in entered, contest.id
        assert len(entered) > 1, contest.id


def test_hograds_rows_are_all_its_exact_methods_of_that_order():
    contest = Contest("directional_derivative", "mlp", 4, order=3)
    methods = hograd_core.directional_derivative.methods.values()
    assert [o.way for o in peers()["hograd"].offered(contest)] == [m.name for m in methods if m.exact and m.supports(3)]


def test_a_peer_declares_an_offer_once_and_has_a_plain_name():
    made = Peer("p", distribution="d", module="m", home="h")
    made.offer("hvp", "w")(lambda task: None)
    made.offer("hessian", "w")(lambda task: None)
    with pytest.raises(ValueError, match="offers hvp by 'w' twice"):
        made.offer("hvp", "w")(lambda task: None)
    with pytest.raises(ValueError, match="expected letters"):
        Peer("p|q", distribution="d", module="m", home="h")


def test_contests_multiply_out_and_refuse_what_they_do_not_know():
    entry = '[[contest]]\noperator = "hvp"\nproblem = "quadratic"\nn = [2, 3]\ndtype = ["float32", "float64"]\n'
    assert [(c.n, c.dtype) for c in _contests.contests(entry)] == [
        (2, "float32"), (2, "float64"), (3, "float32"), (3, "float64"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="declared twice"):
        _contests.contests(entry + entry)
    with pytest.raises(ValueError, match="unexpected keyword argument 'size'"):
        _contests.contests(entry + "size = 3\n")
    with pytest.raises(ValueError, match="missing 1 required positional argument: 'n'"):
        _contests.contests('[[contest]]\noperator = "hvp"\nproblem = "quadratic"\n')


def test_every_contest_is_of_a_problem_and_operator_that_exist():
    for contest in _contests.contests():
        assert contest.operator in OWN_OPERATORS or hograd_core.resolve(contest.operator)
        assert get(contest.problem).name == contest.problem
        getattr(torch, contest.dtype)


def test_a_task_says_what_its_problem_lacks():
    task = Task(Contest("hvp", "quadratic", 3))
    with pytest.raises(LookupError, match="quadratic provides no 'module'"):
        task.extra("module")
    digits = Task(Contest("hvp", "digits_loss", 2, 1, 3))
    assert isinstance(digits.loss_module, torch.nn.CrossEntropyLoss)
    parts = digits.split(digits.v)
    assert [p.shape for p in parts] == [p.shape for p in digits.extra("module").parameters()]
    assert torch.equal(torch.cat([p.reshape(-1) for p in parts]), digits.v)


def test_truth_of_a_contest_judges_results_and_functions():
    standard = _truth.standard(Contest("hvp", "quadratic", 5))
    assert standard.error(standard.value) == 0
    assert standard.error(standard.value[:-1]) == float("inf")
    assert standard.error(standard.value * float("nan")) == float("inf")
    off = standard.value.clone()
    off[0] += standard.scale * 0.25
    assert standard.error(off) == pytest.approx(0.25)
    assert standard.function_error(standard.function * 1.5) == pytest.approx(0.5)


def test_truth_of_kfac_is_the_definition_that_hograd_computes_by_another_route():
    contest = Contest("kfac", "digits_loss", 3, 2, 5, dtype="float64")
    task = Task(contest)
    module, loss, inputs, targets = (task.extra(name) for name in ("module", "loss", "inputs", "targets"))
    ours = kfac(module, loss, inputs, targets).matvec(task.v)
    standard = _truth.standard(contest)
    assert standard.error(ours) < 1e-12
    assert standard.error(ours * 1.001) > standard.tolerance


def test_the_minimiser_on_paper_is_one_and_an_unknown_one_is_refused():
    task = Task(Contest("minimize", "rosenbrock", 6, dtype="float64"))
    value = _truth.standard(task.contest).value.requires_grad_()
    (gradient,) = torch.autograd.grad(task.f(value), value)
    assert float(gradient.abs().max()) == 0
    with pytest.raises(ValueError, match="minimiser of 'quadratic' is not known"):
        _truth.standard(Contest("minimize", "quadratic", 3))

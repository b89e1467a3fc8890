"""Problems whose points are structures, with further arguments and batches: taken as they are, or refused in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hograd_bench import measure, problems
from hograd_bench.cells import Cell
from hograd_bench.metrics import Subject, accuracy
from hograd_bench.problems import Draw, Instance, Problem, ProblemError, Spec
from torch import Tensor

import hograd_core

SPEC = Spec(3)
Build = Callable[[Draw], Instance]


def quartic(x: Tensor) -> Tensor:
    return (x**4).sum()


def of(build: Build) -> Problem:
    return Problem("mine", "f", "tests", "mine", {"n": "n"}, lambda spec, draw: build(draw))


REFUSED: dict[str, tuple[Build, str]] = {
    "another dtype": (
        lambda d: Instance(quartic, [d.normal(2), torch.ones(2)]),
        r"x\[1\] is torch.float32 on cpu where torch.float64 on cpu was asked for; make it by draw",
    ),
    "integers": (lambda d: Instance(quartic, {"a": torch.arange(3)}), r"x\['a'\]: got dtype torch.int64, expected"),
    "nothing": (lambda d: Instance(quartic, {}), "x: got dict, expected a torch.Tensor or a structure of tensors"),
    "empty": (lambda d: Instance(quartic, [d.normal(0)]), "x: got a structure of 1 tensors without an element"),
    "a number": (lambda d: Instance(quartic, 3.0), "x: got float, expected .*; wrap numbers in torch.tensor"),
    "v of other keys": (
        lambda d: Instance(quartic, {"a": d.normal(2)}, v={"b": d.normal(2)}),
        r"v: got \['b'\], expected the structure of x, \['a'\]; give it the same containers and keys",
    ),
    "v of a tensor": (lambda d: Instance(quartic, [d.normal(2)], v=d.normal(2)), r"v: got Tensor, expected .* \[0\]"),
    "v of a shape": (
        lambda d: Instance(quartic, [d.normal(2)], v=[d.normal(3)]),
        r"v\[0\]: got shape \(3,\), expected \(2,\) like x\[0\]",
    ),
    "a tensor as args": (
        lambda d: Instance(quartic, d.normal(2), args=d.normal(2)),  # type: ignore[arg-type]
        r"args: got Tensor, expected a tuple of what f takes after x; one: args=\(data,\)",
    ),
    "too few axes": (
        lambda d: Instance(quartic, d.normal(2), args=(d.normal(3, 2),), in_dims=(None,)),
        r"in_dims: got \(None,\), expected an int, or a tuple of one entry for each of x, args\[0\]",
    ),
    "no such axis": (
        lambda d: Instance(quartic, d.normal(2), args=(d.normal(3),), in_dims=(None, 1)),
        r"in_dims: got 1 for args\[0\] of shape \(3,\), which has no such axis",
    ),
    "sizes": (
        lambda d: Instance(quartic, d.normal(3, 2), args=(d.normal(2),), in_dims=(0, 0)),
        r"in_dims: got axes of sizes \{'x': 3, 'args\[0\]': 2\}, expected one size >= 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused_with_the_remedy(name: str) -> None:
    build, says = REFUSED[name]
    with pytest.raises(ProblemError, match=f"^mine: {says}"):
        of(build).instance(SPEC)


def test_a_problem_is_given_as_methods_take_it_and_as_it_was_written() -> None:
    made = of(lambda d: Instance(lambda p, s: s * quartic(p["b"][0]) + p["a"], {"a": d.normal(), "b": [d.normal(2, 2)]},
                                 args=(3.0,))).instance(SPEC)  # fmt: skip
    assert made.x.shape == made.v.shape == (5,)
    assert made.own.v["b"][0].shape == (2, 2)
    assert torch.equal(made.x, torch.cat([made.own.x["a"].reshape(1), made.own.x["b"][0].reshape(4)]))
    assert float(made.f(made.x)) == float(made.own.f(made.own.x, 3.0))
    arguments, keywords = made.call(hograd_core.derivative_vector_product)
    assert arguments == (made.own.f, made.own.x, made.own.v)
    assert keywords == {"args": (3.0,)}


def test_directions_are_drawn_like_x_the_same_in_every_dtype() -> None:
    problem = of(lambda d: Instance(quartic, {"a": d.normal(2), "b": (d.normal(3),)}))
    low, exact = problem.instance(SPEC, torch.bfloat16), problem.instance(SPEC, torch.bfloat16, precise=True)
    assert low.own.v["a"].dtype == torch.bfloat16
    assert torch.equal(low.v.double(), exact.v)


def test_a_batch_has_a_point_for_each_and_counts_v_with_x() -> None:
    problem = of(lambda d: Instance(lambda x, a: quartic(x["w"] * a), {"w": d.normal(2, 3)}, args=(d.normal(3, 2),),
                                    in_dims=(1, 0)))  # fmt: skip
    made = problem.instance(SPEC)
    points = made.each(hograd_core.derivative_vector_product)
    assert [tuple(x.shape) for _, x, _ in points] == [(2,)] * 3
    arguments, keywords = made.call(hograd_core.derivative_vector_product)
    assert keywords["in_dims"] == (1, 1, 0)
    assert made.call(hograd_core.gradient)[1]["in_dims"] == (1, 0)
    result = hograd_core.derivative_vector_product(*arguments, **keywords)
    for (f, x, v), found in zip(points, made.flat(result, hograd_core.derivative_vector_product, 2), strict=True):
        torch.testing.assert_close(found, hograd_core.hvp(f, x, v))


def test_results_are_laid_flat_and_back() -> None:
    made = problems.get("params_loss").instance(Spec(2, 1, 3))
    for operator, order in ((hograd_core.gradient, 1), (hograd_core.derivative_tensor, 2)):
        arguments, keywords = made.call(operator)
        (flat,) = made.flat(operator(*arguments, **keywords), operator, order)
        assert torch.equal(flat, operator(made.f, made.x))
    step = hograd_core.operators()["cubic_newton_step"]
    arguments, keywords = made.call(step)
    (found,) = made.flat(step(*arguments, **keywords), step, 2)
    assert found.step.shape == made.x.shape


@pytest.mark.parametrize("problem", ["params_loss", "sample_losses"])
@pytest.mark.parametrize("operator", ["derivative_tensor/rows", "derivative_tensor/func_hessian", "gradient/func"])
def test_a_wrong_block_or_point_is_wrong(problem: str, operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the smallest leaf of the last point is held against truth."""
    name, method = operator.split("/")
    order = 1 if name == "gradient" else 2
    made = Subject(Cell(name, method, problem, 2, order, 1, 3, "float64"))
    assert accuracy.verdict(made) is None
    true = made.call()
    head = true["head"]["bias"] if order == 1 else true["head"]["bias"]["head"]["bias"]
    last = head if problem == "params_loss" else head[-1]
    last[(-1,) * last.dim()] *= 1.001
    spoiled = Subject(made.cell)
    monkeypatch.setattr(spoiled, "call", lambda: true)
    assert "exceeds the tolerance" in str(accuracy.verdict(spoiled))


@pytest.mark.parametrize("problem", ["params_loss", "sample_losses"])
def test_every_family_measures_them(problem: str) -> None:
    cell = Cell("derivative_vector_product", "jvp_of_grad", problem, 2, 2, 1, 3)
    row = measure.measure(cell, ("accuracy", "counts", "memory", "steadiness", "guarded"))
    assert row["status"] == "ok", row["reason"]
    assert row["numel"] == 15
    told = row["metrics"]
    assert [told[name] for name in ("steady", "follows_arguments", "allowed")] == [True] * 3
    assert told["f_calls"] == 1  # the samples are vectorised
    assert told["peak_bytes"] > 0


def test_what_remembers_its_further_arguments_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("gradient", "autograd", "params_loss", 2, 1, 1, 3)
    kept = Subject(cell).call()
    monkeypatch.setattr(Subject, "call", lambda self: kept)
    row = measure.measure(cell, ("accuracy", "steadiness"))
    assert row["status"] == "wrong"
    assert "halved in place, as if it remembered earlier calls" in row["reason"]


@pytest.mark.slow
def test_peers_and_prepared_kernels_refuse_a_batch_and_take_a_structure() -> None:
    batch = Cell("derivative_vector_product", "double_backward", "sample_losses", 2, 2, 1, 3, preparation="graph")
    row = measure.measure(batch, ("accuracy",))
    assert (row["status"], row["reason"]) == (
        "unsupported",
        "peers and prepared kernels are asked for one point at a time",
    )
    one = Cell("derivative_vector_product", "double_backward", "params_loss", 2, 2, 1, 3, preparation="graph")
    row = measure.measure(one, ("accuracy", "steadiness"))
    assert (row["status"], row["metrics"]["follows_arguments"]) == ("ok", True), row["reason"]


def test_the_examples_of_the_docs_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    from hograd_bench.problems import _contract

    monkeypatch.setattr(_contract, "_PROBLEMS", dict(problems.problems()))
    text = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    section = text.split("\n## A problem\n")[1].split("\n## ")[0]
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(example, "docs/extending.md", "exec"), names)
    for name, points in (("my_loss", 1), ("my_samples", 8)):
        row = measure.measure(Cell("derivative_tensor", "rows", name, 3), ("accuracy",))
        assert row["status"] == "ok", row["reason"]
        assert len(problems.get(name).instance(Spec(3)).points()) == points

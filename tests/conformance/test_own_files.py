"""A problem and a method of one's own are one file, found in the conformance loop and in the rows."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conformance_loop import loop, make_case
from hograd_bench import problems

import hograd_core

OWN = '''
import torch

from hograd_bench.problems import Draw, Instance, Spec, problem
from hograd_core import derivative_vector_product
from hograd_core._registry import method


@problem("own_loss", formula="Σ log cosh x_i", source="mine", family="elementwise", sizes={"n": "dimension of x"})
def own_loss(spec: Spec, draw: Draw) -> Instance:
    return Instance(lambda x: torch.log(torch.cosh(x)).sum(), draw.normal(spec.n), draw.normal(spec.n))


@method(derivative_vector_product, "own_method", mode="reverse over reverse", source="mine", min_order=2, max_order=2)
def own_method(f, x, v, *, order, scale: float = 1.0):
    """The gradient, recorded, and its product with v."""
    point = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(f(point), point, create_graph=True)
    return scale * torch.autograd.grad(gradient, point, v)[0]
'''


def cubes(x: torch.Tensor) -> torch.Tensor:
    return (x**3).sum()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(OWN, encoding="utf-8")
    return file


@pytest.mark.slow
def test_they_go_through_the_conformance_loop_and_have_their_signature(own: Path) -> None:
    problems.load_file(own)
    outcomes = list(loop(make_case("own_loss", torch.float64), hograd_core.operators(), range(1, 4)))
    assert [str(o) for o in outcomes if o.status != "ok"] == []
    tried = {(o.operator, o.method) for o in outcomes}
    assert ("derivative_vector_product", "own_method") in tried
    assert {m for o, m in tried if o == "derivative_tensor"} == set(hograd_core.derivative_tensor.methods)
    x = torch.ones(2)
    product = hograd_core.derivative_vector_product
    assert product(cubes, x, x, method="own_method", scale=2.0).tolist() == [12.0, 12.0]  # type: ignore[call-arg]
    for called in (product, hograd_core.hvp):
        assert inspect.signature(called).parameters["scale"].default == 1.0
    with pytest.raises(ValueError, match=r"own_method.*from 2 to 2"):
        product(cubes, x, x, 3, method="own_method")


@pytest.mark.slow
def test_they_are_in_the_rows(own: Path, tmp_path: Path) -> None:
    command = ["run", "--problem-file", str(own), "--preset", "smoke", "-k", "derivative_vector_product", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "hograd_bench", *command, "--results", str(tmp_path / "results")],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(done.stdout)}
    assert {row["problem"] for row in rows.values()} == {"own_loss"}
    assert rows["own_method"]["status"] == "ok"
    assert rows["own_method"]["metrics"]["relative_error"] < 1e-5
    assert set(rows) >= {"double_backward", "jvp_of_grad"}

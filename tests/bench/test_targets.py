"""Functions as their users have them: loaded by name or as objects, made problems, evaluated in float64."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hograd_bench import measure, problems
from hograd_bench.cells import Cell
from hograd_bench.targets import Example, Request, Target, TargetError, declared, describe
from hograd_bench.targets._load import load
from hograd_bench.targets._wide import wide
from torch import Tensor, nn


def written(folder: Path, text: str) -> str:
    """A file as its user wrote it."""
    (folder / "mine.py").write_text("import torch\n" + text, encoding="utf-8")
    return str(folder / "mine.py")


def looked_at(f: Any, x: Any, **more: Any) -> dict[str, Any]:
    return describe(Target(Request("mine", **more), Example(f, x)), seconds=600)


def signs(f: Any, x: Any) -> set[str]:
    found = looked_at(f, x)
    assert "error" not in found, found
    return {sign["name"] for sign in found["signs"]}


def test_f_itself_with_a_shape(tmp_path: Path) -> None:
    file = written(tmp_path, "def f(x):\n    return (x ** 3).sum()\n")
    made = load(Request(f"{file}:f", shape=(4, 2), dtype="float64")).at(6)
    assert made.x.shape == (6, 2)
    assert made.x.dtype == torch.float64
    assert float(made.f(made.x)) == float((made.x**3).sum())


def test_a_factory_has_a_size_a_dtype_and_the_same_numbers_each_time(tmp_path: Path) -> None:
    text = "def make(n=3, dtype=torch.float32):\n    return torch.sum, torch.randn(n, dtype=dtype)\n"
    target = load(Request(f"{written(tmp_path, text)}:make", dtype="float64"))
    assert (target.parameter, target.size) == ("n", 3)
    assert target.at(5).x.dtype == torch.float64
    assert torch.equal(target.at(5).x, target.at(5).x)


def test_another_parameter_may_be_the_size(tmp_path: Path) -> None:
    file = written(tmp_path, "def make(width, batch=2):\n    return torch.sum, torch.ones(batch, width)\n")
    assert load(Request(f"{file}:make", scale="width", n=7)).at(7).x.shape == (2, 7)
    with pytest.raises(TargetError, match=r"expected a parameter of .*:make, which has width, batch"):
        load(Request(f"{file}:make", scale="depth"))
    with pytest.raises(TargetError, match="takes width; for f itself give --shape"):
        load(Request(f"{file}:make")).at(1)


def test_a_structure_with_further_arguments_is_one_vector() -> None:
    def f(parameters: dict[str, Tensor], scale: float) -> Tensor:
        return scale * (parameters["a"].sum() + (parameters["b"] ** 2).sum())

    made = Target(Request("mine"), Example(f, {"a": torch.ones(2), "b": torch.ones(3, 1)}, (10.0,))).at(1)
    assert made.x.shape == (5,)
    assert made.leaves == ("x['a']", "x['b']")
    assert float(made.f(made.x)) == 50.0


@pytest.mark.parametrize(
    ("text", "target", "says"),
    [
        ("", "nofile.py:f", "there is no file"),
        ("", "no_such_module_at_all:f", "there is no module"),
        ("", "mine.py", "expected path/to/file.py:name"),
        ("def g(x):\n    return x\n", "mine.py:f", "has no 'f'; it has g"),
        ("def f(x):\n    return x.sum()\n", "mine.py:f", "takes x; for f itself give --shape"),
        ("def f():\n    return torch.ones(3)\n", "mine.py:f", "returned Tensor, expected .* for f itself give --shape"),
        ("def f():\n    return 1, 2, 3\n", "mine.py:f", "returned a tuple of 3, expected"),
        ("f = torch.nn.Linear(2, 2)\n", "mine.py:f", "got a module, expected"),
        ("def f():\n    raise KeyError('a')\n", "mine.py:f", "cannot be differentiated: KeyError"),
        (
            "def f():\n    return lambda x: x.mul_(2).sum(), torch.ones(3)\n",
            "mine.py:f",
            r"in-place.*; .*x = x\.clone\(\)",
        ),
        (
            "def g(x):\n    y = x.exp()\n    return y.add_(1).sum()\nf = lambda: (g, torch.ones(3))\n",
            "mine.py:f",
            "overwrites a value that its backward pass needs",
        ),
        (
            "def f():\n    return lambda x: x.numpy().sum(), torch.ones(3)\n",
            "mine.py:f",
            "write f with operations of torch",
        ),
        (
            "W = torch.ones(3, 3).double()\ndef f():\n    return lambda x: (W @ x).sum(), torch.ones(3)\n",
            "mine.py:f",
            "f's own tensors are of another dtype than x",
        ),
        ("raise ImportError('no such thing')\n", "mine.py:f", "cannot be differentiated: ImportError: no such thing"),
    ],
)
def test_what_is_no_target_is_told(
    text: str, target: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    written(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    found = describe(Request(target).to_json())
    assert re.search(says, found["error"]), found["error"]
    assert bool(found["traceback"]) == ("cannot be differentiated" in found["error"]), found["traceback"]


def test_the_traceback_is_that_of_the_code_that_was_given(tmp_path: Path) -> None:
    file = written(tmp_path, "W = torch.ones(2, 3)\ndef f(x):\n    return (W @ x).sum()\n")
    found = describe(Request(f"{file}:f", shape=(4,)).to_json())
    assert found["error"].endswith("x was a tensor of shape (4,): is that --shape what it expects?")
    assert "(W @ x).sum()" in found["traceback"]
    assert not [line for line in found["traceback"].splitlines() if "hograd_core" in line or "hograd_bench" in line]


def test_what_was_asked_for_wrongly_is_no_fault_of_f(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "def f(x):\n    return x.sum()\n")
    request = Request(f"{file}:f", shape=(4,))
    found = describe(request.to_json(), memory="lots")
    assert found["error"].startswith("memory: got 'lots', expected bytes > 0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = describe(dataclasses.replace(request, device="cuda").to_json())
    assert found["error"].startswith("device: got 'cuda', but torch")


def test_float64_reaches_constants_weights_casts_and_buffers() -> None:
    data, layer = torch.randn(3), nn.GRU(1, 2)

    def f(x: Tensor) -> Tensor:
        buffer = torch.zeros(3)
        buffer[0] = x[0] * data[0]
        hidden, _ = layer((x.float() * data)[:, None])
        return (buffer + x.to(torch.float32) @ torch.ones(3, 3, dtype=torch.float32)).sum() + hidden.sum()

    x = torch.randn(3)
    value = wide(f)(x.double())
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(f(x).item(), rel=1e-5)
    exact = torch.randn(3, dtype=torch.float64)
    assert float(wide(lambda x: (x.float() - exact).abs().sum())(exact)) == 0.0  # no digit is lost on the way
    assert torch.get_default_dtype() == torch.float32


def test_float64_goes_through_derivatives_inside_f() -> None:
    points = torch.tensor([0.5, 1.5])

    def f(x: Tensor) -> Tensor:
        curvature = torch.func.vmap(torch.func.grad(torch.func.grad(lambda t: (x[0] * t).sin())))(points)
        at = points.clone().requires_grad_()
        (slope,) = torch.autograd.grad((x[1] * at**3).sum(), at, create_graph=True)
        return curvature.sum() + slope.sum()

    x = torch.tensor([2.0, 3.0], dtype=torch.float64)
    t = points.double()
    expected = (-(x[0] ** 2) * (x[0] * t).sin()).sum() + (3 * x[1] * t**2).sum()
    assert wide(f)(x).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_function_that_is_another_one_in_float64_has_no_truth() -> None:
    def f(x: Tensor) -> Tensor:
        return (x**2).sum() if x.dtype == torch.float32 else (x**3).sum()

    with declared(Target(Request("mine"), Example(f, torch.tensor([2.0, 3.0])))) as name:
        row = measure.measure(Cell("gradient", "autograd", name, 1, order=1), ("accuracy",))
    assert row["status"] == "unverified"
    assert "truth is in doubt: f is 13 in torch.float32 and 35 in float64" in row["reason"]


def test_a_target_of_this_process_is_a_problem_and_is_let_go_of() -> None:
    target = Target(Request("mine"), Example(lambda x: (x**2).sum(), torch.ones(3)))
    with declared(target) as name:
        problem = problems.get(name)
        instance = problem.instance(problems.Spec(1), torch.float32)
        precise = problem.instance(problems.Spec(1), torch.float32, precise=True)
        assert precise.x.dtype == torch.float64
        assert torch.equal(instance.x.double(), precise.x)
        with pytest.raises(TargetError, match=r"x is torch\.float32"):
            problem.instance(problems.Spec(1), torch.float64)


def once(call: Any) -> list[float]:
    """A timer on which every call takes a second."""
    call()
    return [1.0]


def test_a_smooth_function_shows_no_sign() -> None:
    assert signs(lambda x: (x.sin() * x).sum(), torch.randn(5)) == set()
    assert signs(lambda x: (x**2).sum() + x.prod(), torch.zeros(5)) == set()  # stationary is not ignored
    assert signs(lambda x: torch.relu(x).pow(3).sum() + (x * x.abs()).sum(), torch.tensor([1.0, -2.0])) == set()


@pytest.mark.parametrize(
    ("f", "x", "name"),
    [
        (lambda x: torch.log(x).sum(), torch.tensor([-1.0, 1.0]), "not finite"),
        (lambda x: x.norm(), torch.zeros(3), "second derivative not finite"),
        (lambda x: x.abs().sum(), torch.tensor([0.0, 1.0]), "kink at x"),
        (lambda x: torch.relu(x).sum(), torch.tensor([0.0, 1.0]), "kink at x"),
        (lambda x: (x * x.abs()).sum(), torch.tensor([0.0, 1.0]), "kink at x"),
        (lambda x: x.max() + 0 * x.sum(), torch.tensor([1.0, 1.0]), "kink at x"),
        (lambda x: (x * torch.rand(3)).sum(), torch.ones(3), "not deterministic"),
        (lambda x: (x**2).sum() + 0 * torch.rand(()), torch.ones(3), "draws numbers"),
        (lambda x: (x.detach() ** 2).sum() + 0 * x.sum(), torch.ones(3), "ignores x"),
        (lambda x: torch.ones(3).sum(), torch.ones(3), "ignores x"),
        (lambda x: (x.mul_(2) ** 2 if not x.requires_grad else (2 * x) ** 2).sum(), torch.ones(3), "writes into x"),
    ],
)
def test_what_a_reader_should_know(f: Any, x: Tensor, name: str) -> None:
    assert name in signs(f, x)


def test_a_random_function_is_not_taken_for_one_with_kinks() -> None:
    assert signs(lambda x: ((x + torch.rand(3)) ** 2).sum(), torch.ones(3)) == {"not deterministic"}


def test_what_f_raises_elsewhere_does_not_lose_it() -> None:
    def f(x: Tensor) -> Tensor:
        if x.dtype == torch.float64 or bool((x != 1).any()):
            raise ValueError("only here")
        return (x * x.detach()).sum()

    assert signs(f, torch.ones(3)) == set()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["double_backward", "jvp_of_grad"])
def test_a_function_that_ignores_x_has_a_derivative_of_zero(method: str) -> None:
    with declared(Target(Request("mine"), Example(lambda x: torch.ones(3).sum(), torch.ones(3)))) as name:
        row = measure.measure(Cell("derivative_vector_product", method, name, 1), ("accuracy", "time"), once)
    assert row["status"] == "ok", row["reason"]
    assert row["metrics"]["relative_error"] == 0
    assert row["metrics"]["gradient_equivalents"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "name"),
    [(nn.Dropout(0.5), "dropout in training mode"), (nn.BatchNorm1d(3), "batch norm in training mode")],
)
def test_layers_in_training_mode_are_seen_through_a_closure_and_a_model(layer: nn.Module, name: str) -> None:
    weights = torch.ones(4, 3)
    assert name in signs(lambda x: (layer(weights * x) ** 2).sum(), torch.ones(3))
    model = nn.Sequential(nn.Linear(3, 3), layer)
    made = (model, lambda out, wanted: ((out - wanted) ** 2).mean(), torch.randn(4, 3), torch.zeros(4, 3))
    found = describe(Target(Request("mine"), made))
    # Models with dropout are refused outright.
    assert name in found.get("error", "") or name in {sign["name"] for sign in found["signs"]}
    layer.eval()
    model.eval()
    assert name not in {sign["name"] for sign in describe(Target(Request("mine"), made))["signs"]}


@pytest.mark.parametrize("operator", ["derivative_tensor", "hessian_diagonal"])
def test_what_would_take_too_long_is_held_against_samples(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import hograd_core

    record = hograd_core.operators()[operator]
    method = record.method("rows" if operator == "derivative_tensor" else "columns")
    target = Target(Request("mine"), Example(lambda x: (x[1:] * x[:-1]).square().sum(), torch.linspace(1, 2, 20)))

    def row(sweeps: int | None) -> dict[str, Any]:
        with declared(target, sweeps) as name:
            return measure.measure(Cell(operator, method.name, name, 1), ("accuracy",))

    whole, samples, enough = row(None), row(19), row(20)
    assert [r["status"] for r in (whole, samples, enough)] == ["ok"] * 3
    assert [r["details"].get("sampled") is None for r in (whole, samples, enough)] == [True, False, True]
    assert samples["metrics"]["relative_error"] < 1e-6
    assert samples["missing"]["magnitude"] == "only samples of the truth are known"
    off = dataclasses.replace(method, function=lambda f, x, **more: 1.01 * method.function(f, x, **more))
    monkeypatch.setitem(record.methods, method.name, off)
    assert row(19)["status"] == "wrong"
    assert row(19)["reason"].startswith("relative error ")

"""Every discovered problem keeps the contract: sizes, dtypes, determinism, purity, and a record worth reading."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import hograd_bench.problems as package
import pytest
import torch
from hograd_bench.problems import Instance, Problem, Spec

# Other tests may load problem files of their own into the same process.
OURS = {name: p for name, p in package.problems().items() if p.build.__module__.startswith("hograd_bench.problems.")}
PROBLEMS = [pytest.param(p, id=name) for name, p in OURS.items()]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
SMALLEST = {"arrowhead": 2, "rosenbrock": 2}  # every other problem takes n = 1
REQUIRED = {
    "powers",
    "polynomial",
    "sin_chain",
    "tanh_chain",
    "quadratic",
    "rosenbrock",
    "log_sum_exp",
    "softmax_regression",
    "mlp",
    "mlp_loss",
    "conv_loss",
    "attention_loss",
    "sdpa_attention_loss",
    "linear",
}


def specs(problem: Problem) -> list[Spec]:
    """Small and awkward sizes, over the sizes that the problem has."""
    axes = {"n": (SMALLEST.get(problem.name, 1), 2, 5), "depth": (1, 3), "batch": (1, 2)}
    grid = itertools.product(*(axes[size] if size in problem.sizes else (1,) for size in axes))
    return [Spec(*sizes) for sizes in grid]


def instances(problem: Problem, spec: Spec, dtype: torch.dtype) -> tuple[Instance, Instance]:
    """An instance and its precise twin."""
    return problem.instance(spec, dtype), problem.instance(spec, dtype, precise=True)


@pytest.mark.slow
def test_all_required_problems_are_discovered() -> None:
    missing = REQUIRED - set(OURS)
    assert not missing, f"not discovered: {sorted(missing)}"


def test_one_file_a_problem_named_alike() -> None:
    folder = Path(package.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert files == set(OURS)
    for name in OURS:
        module = importlib.import_module(f"{package.__name__}.{name}")
        assert package.get(name).build.__module__ == module.__name__
        assert module.__doc__


@pytest.mark.parametrize("problem", PROBLEMS)
def test_record_is_complete(problem: Problem) -> None:
    assert problem.formula.startswith(("f(x) =", "f(X) =", "f(W) =", "f(θ) =")) or "_loss" in problem.formula
    assert len(problem.source) > 8
    assert problem.build.__doc__
    assert "n" in problem.sizes
    assert all(len(meaning) > 5 for meaning in problem.sizes.values())
    instance = problem.instance(specs(problem)[0])
    assert set(problem.provides) == set(instance.extras)
    if problem.operations is not None:
        for spec in specs(problem):
            counts = problem.operations(spec)
            assert set(counts) <= {"add", "mul", "div", "compare", "transcendental"}
            assert all(isinstance(count, int) and count >= 0 for count in counts.values())
            assert sum(counts.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_builds_in_every_dtype_without_promotion(problem: Problem, dtype: torch.dtype) -> None:
    for spec, device in itertools.product([*specs(problem), Spec(48, 12, 3)], DEVICES):
        instance = problem.instance(spec, dtype, device)
        assert instance.x.dtype == dtype
        assert instance.x.device.type == device
        assert instance.v is not None
        assert (instance.v.dtype, instance.v.shape, instance.v.device) == (
            dtype,
            instance.x.shape,
            instance.x.device,
        )
        assert not instance.x.requires_grad
        y = instance.f(instance.x)
        assert (y.dtype, y.shape, y.device) == (dtype, torch.Size(()), instance.x.device)
        assert torch.isfinite(y)
        assert torch.isfinite(instance.x).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_precise_instance_is_the_rounded_one_in_float64(problem: Problem, dtype: torch.dtype) -> None:
    for spec in [*specs(problem), Spec(48, 12, 3)]:
        rounded, precise = instances(problem, spec, dtype)
        assert precise.x.dtype == torch.float64
        assert torch.equal(rounded.x.double(), precise.x)
        assert rounded.v is not None
        assert precise.v is not None
        assert torch.equal(rounded.v.double(), precise.v)
        for name in ("inputs", "targets"):
            if name in rounded.extras:
                assert torch.equal(rounded.extras[name].to(precise.extras[name].dtype), precise.extras[name])
        # The constants inside f agree too: values differ by rounding alone.
        value, truth = rounded.f(rounded.x).double(), precise.f(precise.x)
        assert abs(value - truth) <= 32 * torch.finfo(dtype).eps * abs(truth)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_seed_fixes_the_data_and_another_seed_changes_it(problem: Problem) -> None:
    spec = Spec(4, 2, 3)
    torch.manual_seed(7)
    a = problem.instance(spec)
    torch.manual_seed(8)  # the global generator must play no part
    b = problem.instance(spec)
    other = problem.instance(spec, seed=1)
    assert torch.equal(a.x, b.x)
    assert a.v is not None
    assert b.v is not None
    assert torch.equal(a.v, b.v)
    assert torch.equal(a.f(a.x), b.f(b.x))
    assert not torch.equal(a.x, other.x)
    assert not torch.equal(a.f(a.x), other.f(other.x))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_f_is_pure(problem: Problem) -> None:
    instance = problem.instance(Spec(4, 2, 3))
    before = instance.x.clone()
    x = instance.x.clone().requires_grad_(True)
    first = instance.f(x)
    torch.autograd.grad(first, x, allow_unused=True)
    assert torch.equal(instance.f(x), first)
    assert torch.equal(instance.x, before)
    assert not instance.f(instance.x).requires_grad, "f tracks gradients of tensors it is closed over"
    if "module" in instance.extras:
        assert all(p.grad is None for p in instance.extras["module"].parameters())


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if "module" in p.values[0].provides])  # type: ignore[attr-defined]
def test_extras_describe_the_same_function(problem: Problem) -> None:
    instance = problem.instance(Spec(3, 2, 4))
    module, loss = instance.extras["module"], instance.extras["loss"]
    flat = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    assert torch.equal(flat, instance.x)
    value = loss(module(instance.extras["inputs"]), instance.extras["targets"])
    torch.testing.assert_close(value.detach(), instance.f(instance.x), rtol=1e-14, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
def test_well_conditioned_in_float32(problem: Problem) -> None:
    """Derivatives along v up to order 5 lose at most three digits in float32, even for deep instances."""
    for depth, highest in ((1, 5), (6, 4)):
        if depth > 1 and "depth" not in problem.sizes:
            continue
        rounded = problem.instance(Spec(3, depth, 2), torch.float32)
        precise = problem.instance(Spec(3, depth, 2), torch.float32, precise=True)
        orders = [1] if problem.name == "sdpa_attention_loss" else range(1, highest + 1)
        for order in orders:
            value, truth = along_v(rounded, order).double(), along_v(precise, order)
            assert (value - truth).norm() <= 1e-4 * truth.norm(), (depth, order)


def along_v(instance: Instance, order: int) -> torch.Tensor:
    """D^order f [v, ..., v, ·] by chained gradients."""
    assert instance.v is not None
    x = instance.x.clone().requires_grad_(True)
    scalar = instance.f(x)
    gradient = torch.zeros_like(x)
    for step in range(order):
        if not scalar.requires_grad:
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(
            scalar, x, create_graph=step < order - 1, allow_unused=True, materialize_grads=True
        )
        scalar = (gradient * instance.v).sum()
    return gradient


@pytest.mark.parametrize("name", ["arrowhead", "rosenbrock"])
def test_what_couples_two_variables_refuses_one(name: str) -> None:
    with pytest.raises(ValueError, match=r"^n: got 1, expected >= 2"):
        package.get(name).instance(Spec(1))


@pytest.mark.parametrize("name", ["<script>", "a b", "a/b", "", "x" * 61, "-x", "quote'"])
def test_a_name_that_could_be_no_part_of_an_id_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"problem: got the name .*, expected letters, digits"):
        package.problem(name, formula="f", source="mine", family="dense", sizes={"n": "n"})
    assert name not in package.problems()

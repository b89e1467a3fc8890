"""Prepared kernels on every problem against float64 truth, and on functions that were put together at random."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conformance_loop import Case, make_case
from hograd_bench import problems
from torch import Tensor

import hograd_core as h
from hograd_core import UnsupportedError, prepare
from hograd_core._registry import resolve
from hograd_core.arguments import mapped
from hograd_core.prepare.inductor import _compile

pytestmark = [pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")]
needs_compiler = pytest.mark.skipif(
    _compile.unavailable("cpu") is not None, reason=f"nothing compiles here: {_compile.unavailable('cpu')}"
)
PREPARATIONS = ["graph", pytest.param("compiled", marks=[needs_compiler, pytest.mark.slow])]
ALL = bool(os.environ.get("HOGRAD_COMPILE_ALL"))
"""Compiling takes up to two minutes a problem: the whole is for a quiet machine."""
QUICK = {"log_sum_exp", "powers", "separable_exp", "quadratic", "mlp"}
PROBLEMS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(problems.problems())]
UNPREPARED = {"sdpa_attention_loss": "PyTorch's fused attention has no second derivative"}


def near(result: Tensor, truth: Tensor, reference: Tensor) -> bool:
    """Whether a result is as near to float64 truth as the eager one, within a few roundings."""
    eps = torch.finfo(result.dtype).eps
    scale = truth.abs().max()
    allowed = 4 * (reference.double() - truth).abs().max() + 64 * eps * scale
    return bool(((result.double() - truth).abs() <= allowed).all())


@pytest.mark.parametrize("preparation", PREPARATIONS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem(name: str, preparation: str) -> None:
    if preparation == "compiled" and name not in QUICK and not ALL:
        pytest.skip("HOGRAD_COMPILE_ALL=1 compiles every problem")
    case = make_case(name, torch.float32)
    own, precise = case.instance.own, case.precise
    if own.in_dims is not None:  # a prepared kernel is of one point: the first one's function
        own = case.instance
    if name in UNPREPARED:
        with pytest.raises(UnsupportedError):
            prepare(h.hvp, own.f, own.x, args=own.args, preparation=preparation)
        return
    # A product's graph holds the gradient's: each of them costs a compilation.
    fewer = preparation == "compiled" and not ALL and name != "mlp"
    calls: list[tuple[Any, bool]] = [(h.hvp, True), *([] if fewer else [(h.gradient, False)])]
    if case.precise.x.numel() <= 16 and not fewer:
        calls.append((h.hessian, False))
    for operator, takes_v in calls:
        given = (own.x, own.v) if takes_v else (own.x,)
        p = prepare(operator, own.f, own.x, args=own.args, preparation=preparation)
        assert p.preparation == preparation, p.explain()
        truth = operator(precise.f, precise.x, *([precise.v] if takes_v else [])).reshape(-1)
        eager = flat(case, operator, operator(own.f, *given, args=own.args))
        assert near(flat(case, operator, p(*given, args=own.args)), truth, eager)
        if not takes_v:
            continue
        bound = p.bind(own.x, args=own.args)
        assert near(flat(case, operator, bound(own.v)), truth, eager)
        both = bound(mapped(lambda leaf: torch.stack([leaf, -leaf]), own.v), in_dims=0)
        assert not any(binding is None for binding in bound.bindings.values())
        for i, sign in enumerate((1, -1)):
            one = flat(case, operator, mapped(lambda leaf, i=i: leaf[i], both))
            assert near(sign * one, truth, eager)


def flat(case: Case, operator: Any, result: Any) -> Tensor:
    """The numbers of a result at one point, in the order of the elements of x."""
    record, order = resolve(operator.__name__)
    whole = [result] if case.instance.own.in_dims is not None else case.instance.flat(result, record, order or 1)
    numbers: Tensor = whole[0].reshape(-1)
    return numbers


N = 6
_ELEMENTWISE: list[Callable[[Tensor], Tensor]] = [
    torch.tanh, torch.sin, torch.exp, torch.sigmoid, torch.nn.functional.softplus, torch.nn.functional.gelu,
    lambda y: y.square(), lambda y: y**3, lambda y: 1 / (1 + y.square()), lambda y: (1 + y.square()).log(),
    lambda y: y * y.detach().cos(), lambda y: torch.where(y > 0, y.square(), y.sin()), torch.atan,
]  # fmt: skip
_SHAPED: list[Callable[[Tensor], Tensor]] = [
    lambda y: y.view(2, 3).t().reshape(-1), lambda y: y.flip(0), lambda y: y.roll(2),
    lambda y: torch.cat([y[2:], y[:2] * 2]), lambda y: torch.stack(y.unbind(0)), lambda y: y.cumsum(0) / N,
    lambda y: y.softmax(0) * y, lambda y: y - y.mean(), lambda y: torch.nn.functional.layer_norm(y, (N,)),
    lambda y: y.view(3, 2) .matmul(y.view(2, 3)).diagonal().repeat(2), lambda y: y.split(3)[0].repeat_interleave(2),
    lambda y: y * torch.trace(y.view(2, 3) @ y.view(3, 2)), lambda y: torch.outer(y, y).sum(1) / N,
    lambda y: torch.nn.functional.pad(y[1:-1], (1, 1)), lambda y: y.index_select(0, torch.tensor([5, 0, 0, 3, 2, 1])),
    lambda y: torch.linalg.solve(torch.eye(N, dtype=y.dtype) * 4 + torch.outer(y, y), y), lambda y: _written(y),
    lambda y: torch.fft.rfft(y).abs().square().repeat(2)[:N], lambda y: torch.einsum("i,j->ij", y, y).triu().sum(0),
    lambda y: y.view(1, 2, 3).expand(2, 2, 3).sum(0).reshape(-1), lambda y: y.logcumsumexp(0),
]  # fmt: skip


def _written(y: Tensor) -> Tensor:
    z = y.clone()
    z[1:4] = y[:3] * y[3:]
    z += y
    return z


def composed(seed: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A function of six numbers: some steps drawn at random, with weights between them."""
    draw = random.Random(seed)
    numbers = torch.Generator().manual_seed(seed)
    steps: list[Callable[[Tensor], Tensor]] = []
    for _ in range(draw.randint(2, 6)):
        kind = draw.random()
        if kind < 0.35:
            steps.append(draw.choice(_ELEMENTWISE))
        elif kind < 0.7:
            steps.append(draw.choice(_SHAPED))
        else:
            w = (torch.randn(N, N, generator=numbers, dtype=torch.float64) / N**0.5).float().to(dtype)
            steps.append(draw.choice([lambda y, w=w: y @ w, lambda y, w=w: w @ y + y, lambda y, w=w: y * w.sum(0)]))
    ends: list[Callable[[Tensor], Tensor]] = [
        lambda y: y.square().sum(), lambda y: y.logsumexp(0), lambda y: y.sin().mean(), lambda y: (y * y.roll(1)).sum()
    ]  # fmt: skip
    end = draw.choice(ends)

    def f(x: Tensor) -> Tensor:
        y = x
        for step in steps:
            y = step(y)
        return end(y)

    return f


EXCUSES = ("not finite", "shape out of values")


def fuzz(seed: int, preparation: str) -> None:
    """One function: prepared, eager and float64 agree; a seed that fails is reproduced by it alone."""
    numbers = torch.Generator().manual_seed(1000 + seed)
    x, v = (torch.rand(N, generator=numbers) + 0.5 for _ in range(2))
    f, precise = composed(seed, torch.float32), composed(seed, torch.float64)
    truth, eager = h.hvp(precise, x.double(), v.double()), h.hvp(f, x, v)
    if not bool(eager.isfinite().all()) or truth.abs().max() > 1e6:
        pytest.skip("it overflows, or nearly")
    p = prepare(h.hvp, f, x, preparation=preparation)
    # PyTorch's own backward formulas of some steps look at values, too. Anything else is no excuse.
    assert p.preparation == preparation or any(w in (p.reason or "") for w in EXCUSES), p.explain()
    assert near(p(x, v), truth, eager), p.explain()
    if seed % 10 == 0:
        matrix = prepare(h.hessian, f, x, preparation=preparation)
        assert near(matrix(x), h.hessian(precise, x.double()), h.hessian(f, x)), matrix.explain()


@pytest.mark.parametrize("seed", range(100))
def test_functions_put_together_at_random(seed: int) -> None:
    fuzz(seed, "graph")


def test_most_functions_are_prepared() -> None:
    made = [
        prepare(h.gradient, composed(seed, torch.float32), torch.ones(N), preparation="graph") for seed in range(20)
    ]
    assert sum(p.preparation == "graph" for p in made) >= 16


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100 if ALL else 6))
def test_functions_put_together_at_random_and_compiled(seed: int) -> None:
    fuzz(seed, "compiled")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("operator", [h.hvp, h.hessian])
def test_a_fault_of_inductor_is_noticed_or_gone(operator: Any) -> None:
    """Its Hessians of functions with torch.trace are silently wrong in torch 2.13 (pytorch #190855)."""
    f = lambda x: torch.trace(x.view(3, 3) @ x.view(3, 3)) ** 2  # noqa: E731
    x, v = torch.linspace(0.5, 1.5, 9), torch.linspace(1, 2, 9)
    more = (v,) if operator is h.hvp else ()
    p = prepare(operator, f, x, preparation="compiled")
    assert torch.allclose(p(x, *more), operator(f, x, *more), rtol=1e-4), p.explain()


TAYLOR_ORDERS = (2, 3, 4, 5, 6)


def taylor_fuzz(seed: int, preparation: str) -> None:
    """A directional derivative by one Taylor pass: prepared, eager and float64 agree."""
    order = TAYLOR_ORDERS[seed % len(TAYLOR_ORDERS)]
    numbers = torch.Generator().manual_seed(2000 + seed)
    x, v = (torch.rand(N, generator=numbers) + 0.5 for _ in range(2))
    f, precise = composed(seed, torch.float32), composed(seed, torch.float64)
    try:
        truth = h.directional_derivative(precise, x.double(), v.double(), order, method="taylor")
    except UnsupportedError as error:  # an operation without a rule
        with pytest.raises(UnsupportedError, match=str(error)[:20]):
            prepare(h.directional_derivative, f, x, order=order, method="taylor", preparation=preparation)
        return
    eager = h.directional_derivative(f, x, v, order, method="taylor")
    if not bool(eager.isfinite().all()) or truth.abs().max() > 1e6:
        pytest.skip("it overflows, or nearly")
    p = prepare(h.directional_derivative, f, x, order=order, method="taylor", preparation=preparation)
    assert p.preparation == preparation or any(w in (p.reason or "") for w in (*EXCUSES, "reads values")), p.explain()
    if p.preparation != "eager":
        result = p(x, v)
        allowed = 8 * (eager.double() - truth).abs() + 4**order * 64 * torch.finfo(x.dtype).eps * truth.abs().clamp_min(
            1
        )
        assert (result.double() - truth).abs() <= allowed, p.explain()


@pytest.mark.parametrize("seed", range(30))
def test_taylor_passes_of_functions_put_together_at_random(seed: int) -> None:
    taylor_fuzz(seed, "graph")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30 if ALL else 3))
def test_taylor_passes_put_together_at_random_and_compiled(seed: int) -> None:
    taylor_fuzz(seed, "compiled")


@pytest.mark.parametrize("name", PROBLEMS)
def test_taylor_passes_of_every_problem(name: str) -> None:
    """Order 3, or 2 of losses, whose parameters are many: prepared as it is asked for, or for a reason."""
    case = make_case(name, torch.float32)
    instance, precise = case.instance, case.precise
    order = 3 if instance.x.numel() <= 64 else 2
    try:
        truth = h.directional_derivative(precise.f, precise.x, precise.v, order, method="taylor")
    except UnsupportedError:
        pytest.skip("no Taylor rule, or no derivative")
    eager = h.directional_derivative(instance.f, instance.x, instance.v, order, method="taylor")
    p = prepare(h.directional_derivative, instance.f, instance.x, order=order, method="taylor", preparation="graph")
    assert p.preparation == "graph" or p.reason, p.explain()
    assert instance.v is not None
    result = p(instance.x, instance.v)
    allowed = 4 * (eager.double() - truth).abs() + 4**order * 64 * torch.finfo(torch.float32).eps * truth.abs()
    assert (result.double() - truth).abs() <= allowed, p.explain()

"""Functions put together at random: prepared as graphs and compiled, eager and in float64."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conformance_loop import near
from prepare_fakes import needs_compiler
from torch import Tensor

import hograd_core as h
from hograd_core import UnsupportedError, prepare

pytestmark = [pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")]
SEEDS = range(100)
TOGETHER = 10
"""So many functions are compiled as one, of a row of x each: one by one they would take ten minutes."""
N = 6
ORDERS = (2, 3, 4, 5, 6)
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


def point(seed: int) -> tuple[Tensor, Tensor]:
    """Where it is tried, and the direction."""
    numbers = torch.Generator().manual_seed(1000 + seed)
    x, v = (torch.rand(N, generator=numbers) + 0.5 for _ in range(2))
    return x, v


def together(seeds: list[int]) -> Callable[[Tensor], Tensor]:
    """The sum of several functions, each of a row of its own: of what is block by block a derivative of one."""
    functions = [composed(seed, torch.float32) for seed in seeds]
    return lambda x: torch.stack([f(row) for f, row in zip(functions, x, strict=True)]).sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_graphs(seed: int) -> None:
    x, v = point(seed)
    f, precise = composed(seed, torch.float32), composed(seed, torch.float64)
    for operator, given in ((h.hvp, (x, v)), (h.hessian, (x,))):
        truth, eager = operator(precise, *(t.double() for t in given)), operator(f, *given)
        assert bool(eager.isfinite().all())
        p = prepare(operator, f, x, preparation="graph")
        assert p.preparation == "graph", p.explain()
        assert near(p(*given), truth, eager), p.explain()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("first", SEEDS[::TOGETHER])
def test_compiled(first: int) -> None:
    seeds = list(range(first, first + TOGETHER))
    points, directions = map(torch.stack, zip(*map(point, seeds), strict=True))
    p = prepare(h.hvp, together(seeds), points, preparation="compiled")
    assert p.preparation == "compiled", p.explain()
    for seed, x, v, found in zip(seeds, points, directions, p(points, directions), strict=True):
        truth = h.hvp(composed(seed, torch.float64), x.double(), v.double())
        assert near(found, truth, h.hvp(composed(seed, torch.float32), x, v)), seed


@needs_compiler
@pytest.mark.slow
def test_compiled_hessians() -> None:
    seeds = list(SEEDS[:5])
    points, _ = map(torch.stack, zip(*map(point, seeds), strict=True))
    p = prepare(h.hessian, together(seeds), points, preparation="compiled")
    assert p.preparation == "compiled", p.explain()
    for i, (seed, x, rows) in enumerate(zip(seeds, points, p(points), strict=True)):
        truth = h.hessian(composed(seed, torch.float64), x.double())
        assert near(rows[:, i], truth, h.hessian(composed(seed, torch.float32), x)), seed
        assert not rows.index_select(1, torch.tensor([j for j in range(len(seeds)) if j != i])).any()


def taylor_of(seed: int, order: int) -> tuple[Tensor, Tensor] | None:
    """A directional derivative by one Taylor pass in float64, and eager; None: an operation has no rule."""
    x, v = point(seed)
    try:
        true = h.directional_derivative(composed(seed, torch.float64), x.double(), v.double(), order, method="taylor")
    except UnsupportedError:
        return None
    return true, h.directional_derivative(composed(seed, torch.float32), x, v, order, method="taylor")


def taylor_near(found: Tensor, truth: Tensor, eager: Tensor, order: int) -> bool:
    rounding = 4**order * 64 * torch.finfo(found.dtype).eps * truth.abs().clamp_min(1)
    return bool((found.double() - truth).abs() <= 8 * (eager.double() - truth).abs() + rounding)


@pytest.mark.parametrize("seed", SEEDS[:30])
def test_graphs_of_taylor_passes(seed: int) -> None:
    order = ORDERS[seed % len(ORDERS)]
    x, v = point(seed)
    f = composed(seed, torch.float32)
    true = taylor_of(seed, order)
    if true is None:
        with pytest.raises(UnsupportedError):
            prepare(h.directional_derivative, f, x, order=order, method="taylor", preparation="graph")
        return
    p = prepare(h.directional_derivative, f, x, order=order, method="taylor", preparation="graph")
    assert p.preparation == "graph" or "reads values" in (p.reason or ""), p.explain()
    assert taylor_near(p(x, v), *true, order), p.explain()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS[::2])
def test_compiled_taylor_passes(order: int) -> None:
    """Of several functions at once: in the direction of one of them, the others give zero."""

    def prepares(seed: int) -> bool:
        kwargs: dict[str, Any] = {"order": order, "method": "taylor", "preparation": "graph"}
        return (
            taylor_of(seed, order) is not None
            and prepare(h.directional_derivative, composed(seed, torch.float32), point(seed)[0], **kwargs).preparation
            == "graph"
        )

    seeds = [seed for seed in SEEDS[:12] if prepares(seed)][:4]
    points, directions = map(torch.stack, zip(*map(point, seeds), strict=True))
    p = prepare(h.directional_derivative, together(seeds), points, order=order, method="taylor", preparation="compiled")
    assert p.preparation == "compiled", p.explain()
    for i, seed in enumerate(seeds):
        v = torch.zeros_like(directions)
        v[i] = directions[i]
        true = taylor_of(seed, order)
        assert true is not None
        assert taylor_near(p(points, v), *true, order), seed

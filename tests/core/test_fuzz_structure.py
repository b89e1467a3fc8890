"""Random programs for the methods that rest on a function's structure, eager and prepared, against plain autograd."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import normal
from torch import Tensor, nn

from hograd_core import from_module, hessian_diagonal, prepare
from hograd_core.applications import _forward_laplacian
from hograd_core.applications.pinn import laplacian

Step = Callable[[Tensor], Tensor]

QUICK, ALL = range(4), range(30)
SEEDS = [pytest.param(seed, marks=[] if seed in QUICK else [pytest.mark.slow]) for seed in ALL]


@pytest.fixture(autouse=True)
def _looks_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_forward_laplacian, "_LEAST", 0)


ELEMENTWISE: list[Step] = [
    torch.sin, torch.tanh, torch.sigmoid, F.softplus, F.silu, F.gelu, torch.square, lambda h: (0.3 * h).exp(),
    lambda h: h * 0.5 - 1, lambda h: h / (1 + h * h), lambda h: torch.where(h > 0, h.sin(), 0.1 * h**3),
    lambda h: h.clone().mul_(h.cos()), lambda h: (2 + h * h).log(), lambda h: (1 + h * h).sqrt(), F.relu,
]  # fmt: skip


def matrix(choose: random.Random, rows: int, columns: int) -> Tensor:
    """Dense, or with zeros that only its values show."""
    w = normal(rows, columns, seed=choose.randrange(10**6)) / rows**0.5
    return w * (normal(rows, columns, seed=choose.randrange(10**6)) > 0.8) if choose.random() < 0.3 else w


def mixed(choose: random.Random, width: int) -> tuple[Step, int]:
    """One step that moves, joins or couples entries of (N, width), and the width after it."""
    kind = choose.choice(
        ["blocks", "gather", "distances", "neighbours", "joined"]
        if choose.random() < 0.75
        else ["dense", "by size", "normed", "sums", "softmax"]
    )
    if kind == "dense":
        after = choose.randint(1, 5)
        w = matrix(choose, width, after)
        return lambda h: h @ w, after
    if kind == "blocks" and width % 2 == 0:
        w, after = matrix(choose, 2, 3), width // 2 * 3
        return lambda h: (h.reshape(h.shape[0], -1, 2) @ w).reshape(h.shape[0], -1), after
    if kind == "gather":
        at = torch.tensor([choose.randrange(width) for _ in range(choose.randint(1, 6))])
        return lambda h: h[:, at], at.numel()
    if kind == "distances" and 1 < width <= 6:
        i, j = torch.triu_indices(width, width, 1)
        return lambda h: (h[:, i] - h[:, j]).square() + 0.1, i.numel()
    if kind == "neighbours" and width > 1:
        return lambda h: h[:, 1:] * h[:, :-1], width - 1
    if kind == "joined" and width <= 4:
        inner = choose.choice(ELEMENTWISE)
        return lambda h: torch.cat([h, inner(h.flip(1))], 1), 2 * width
    if kind == "by size":
        return lambda h: h.sort(1).values, width
    if kind == "normed":
        return lambda h: h / (1 + h.square().mean(1, keepdim=True)), width
    if kind == "sums":
        return lambda h: h.cumsum(1), width
    if kind == "softmax":
        return lambda h: h.softmax(1), width
    return lambda h: h + 1, width


ENDS: list[Step] = [
    lambda h: h.sum(1), lambda h: h.logsumexp(1), lambda h: (1 + 0.1 * h).prod(1), lambda h: h.mean(1).tanh(),
    lambda h: (h.square().sum(1, keepdim=True) + 1).sqrt(), lambda h: h.amax(1), lambda h: h[:, 0] * h[:, -1],
]  # fmt: skip


def program(seed: int) -> tuple[Step, int]:
    """A field on ℝᵈ: a few steps, elementwise and not, and an end."""
    choose = random.Random(seed)
    width = d = choose.randint(2, 7)
    steps: list[Step] = []
    for _ in range(choose.randint(1, 4)):
        steps.append(choose.choice(ELEMENTWISE))
        if choose.random() < 0.7:
            step, width = mixed(choose, width)
            steps.append(step)
    steps += [choose.choice(ELEMENTWISE), ENDS[0] if choose.random() < 0.5 else choose.choice(ENDS)]

    def u(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return u, d


def traces(u: Step, x: Tensor) -> Tensor:
    """Of the Hessian at each point, by autograd twice."""
    found = []
    for point in x:
        h = torch.autograd.functional.hessian(lambda p: u(p[None]).reshape(()), point)
        found.append(h.trace())  # type: ignore[union-attr]
    return torch.stack(found)


@pytest.mark.parametrize("seed", range(60))
def test_forward_laplacian(seed: int) -> None:
    u, d = program(seed)
    x = normal(3, d, seed=seed + 1)
    found, true = laplacian(u, x, method="forward_laplacian"), traces(u, x)
    torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-9 * float(true.abs().max().clamp_min(1)))


@pytest.mark.parametrize("seed", SEEDS)
def test_prepared_forward_laplacian(seed: int) -> None:
    """At other points than those it was traced at, where other entries may be the largest."""
    u, d = program(seed)
    p = prepare(laplacian, u, normal(3, d, seed=seed), method="forward_laplacian", preparation="graph")
    assert p.preparation == "graph" or p.reason, p.explain()
    for other in (1, 2):
        x = normal(3, d, seed=seed + other)
        true = traces(u, x)
        torch.testing.assert_close(p(x), true, rtol=1e-9, atol=1e-9 * float(true.abs().max().clamp_min(1)))


class Added(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.inner(x)
        return out


class Scaled(nn.Module):
    """Weights that enter in other ways than a layer's: one of each feature, one of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.each, self.all = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.each + self.all.sin()


def module(seed: int) -> nn.Module:
    choose = random.Random(seed)
    torch.manual_seed(seed)
    activations: list[Callable[[], nn.Module]] = [
        nn.Tanh, nn.SiLU, nn.GELU, nn.Softplus, nn.ReLU, nn.Sigmoid, nn.Identity, lambda: nn.ReLU(inplace=True)
    ]  # fmt: skip
    layers: list[nn.Module] = []
    width = 3
    for _ in range(choose.randint(0, 3)):
        kind = choose.choice(["linear", "linear", "linear", "norm", "added", "scaled", "twice", "no bias"])
        if kind in ("linear", "no bias"):
            after = choose.randint(1, 5)
            layers.append(nn.Linear(width, after, bias=kind == "linear"))
            width = after
        elif kind == "norm":
            layers.append(nn.LayerNorm(width))
        elif kind == "added":
            layers.append(Added(nn.Sequential(nn.Linear(width, 2), choose.choice(activations)(), nn.Linear(2, width))))
        elif kind == "scaled":
            layers.append(Scaled(width))
        else:
            shared = nn.Linear(width, width)
            layers += [shared, choose.choice(activations)(), shared]
        # In place after what others still need, PyTorch itself refuses.
        layers.append(choose.choice(activations[: -1 if kind in ("added", "norm", "twice") else None])())
    return nn.Sequential(*layers, nn.Linear(width, 3)).double()


LOSSES: list[Callable[[Tensor, Tensor], Tensor]] = [
    F.cross_entropy, lambda z, y: F.mse_loss(z, F.one_hot(y, 3).to(z)), lambda z, y: (z.sin() * z.exp()).sum(),
    lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1, reduction="sum"), lambda z, y: z.logsumexp((0, 1)),
    lambda z, y: (z - z.mean(0)).pow(4).mean() + F.cross_entropy(z, y),
]  # fmt: skip


# Prepared, a module whose weights go by a product each with the whole Hessian takes long to trace.
PREPARED = [pytest.param(seed, "graph", marks=pytest.mark.slow) for seed in QUICK]


@pytest.mark.parametrize(("seed", "preparation"), [*((s, "eager") for s in ALL), *PREPARED])
def test_layers(seed: int, preparation: str) -> None:
    targets = torch.arange(4) % 3
    f, x = from_module(module(seed), LOSSES[seed % len(LOSSES)], (normal(4, 3, seed=seed), targets))
    p = prepare(hessian_diagonal, f, x, method="layers", preparation=preparation)
    for point in (x, x * 0.9 + 0.05):
        true = torch.autograd.functional.hessian(f, point).diagonal()  # type: ignore[union-attr]
        torch.testing.assert_close(p(point), true, rtol=1e-9, atol=1e-9 * float(true.abs().max().clamp_min(1)))

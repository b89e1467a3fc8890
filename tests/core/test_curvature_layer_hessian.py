"""The Hessian's diagonal from second derivatives at the outputs of layers: where it holds, and where it must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hograd_core import from_module, hessian_diagonal, prepare
from hograd_core.curvature._layer_hessian import layer_diagonal

N = 5


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.outer, self.last = (nn.Linear(*s) for s in ((3, 4), (4, 6), (6, 4), (4, 3)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        h = h + h.square()
        h = h + self.outer(self.inner(h.sin()).tanh())
        out: Tensor = self.last(h)
        return out


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.layer(self.layer(x).tanh()).tanh())
        return out


class Coupled(nn.Module):
    """Samples meet behind the first layer, not behind the last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        out: Tensor = self.last(h - h.mean(0))
        return out


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        with torch.no_grad():
            gate = h.sigmoid()
        out: Tensor = self.last(h * gate + h.detach().cos())
        return out


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(checkpoint(lambda y: self.first(y).tanh(), x, use_reentrant=False))
        return out


class Written(nn.Module):
    """A layer's output of which parts are written over, and one that is written over as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h[:, 1] = x[:, 2].sin()
        out: Tensor = self.last(self.second(h.tanh()).mul_(2).sigmoid_())
        return out


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        found: Tensor = 3 * x**2 * g
        return found


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(_Cube.apply(self.first(x)))
        return out


def _square(activation: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 5), activation, nn.Linear(5, 3))


# Each with the number of its parameters that go by products with the whole Hessian.
MODULES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "tanh": (_square(nn.Tanh()), 0),
    "in place": (_square(nn.ReLU(inplace=True)), 0),
    "silu": (_square(nn.SiLU()), 0),
    "gelu": (_square(nn.GELU()), 0),
    "one layer": (lambda: nn.Linear(3, 3), 0),
    "no biases": (lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.Sigmoid(), nn.Linear(4, 3, bias=False)), 0),
    "wide": (lambda: nn.Sequential(nn.Linear(3, 40), nn.Softplus(), nn.Linear(40, 3)), 0),
    "residual": (Residual, 0),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 1, 3)), nn.Conv2d(1, 2, (1, 3), padding="same"), nn.Tanh(), nn.Conv2d(2, 3, 1),
            nn.ReLU(), nn.AvgPool2d((1, 2), 1), nn.Flatten(), nn.Linear(6, 3),
        ), 0,
    ),
    "kinks and pools": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2, stride=1, padding=1), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(),
            nn.Linear(8, 4), nn.LeakyReLU(0.1), nn.Linear(4, 3),
        ), 0,
    ),
    "norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)), 8),
    "softmax within": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 3)), 0),
    "twice": (Twice, 12),
    "coupled": (Coupled, 16),
    "detached": (Detached, 0),
    "checkpointed": (Checkpointed, 0),
    "written": (Written, 16),
    "custom": (Custom, 31),
}  # fmt: skip
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross entropy": F.cross_entropy,
    "squares": lambda z, y: F.mse_loss(z, F.one_hot(y, 3).to(z), reduction="sum"),
    "logistic": lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, 3).to(z)),
    "own": lambda z, y: (z.sin() * z.exp() / N).mean() + z.norm(dim=1).sum(),
}


def made(name: str, loss: str = "cross entropy", dtype: torch.dtype = torch.float64) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    module = MODULES[name][0]().to(dtype)
    return from_module(module, LOSSES[loss], (torch.randn(N, 3, dtype=dtype), torch.randint(3, (N,))))


@pytest.mark.parametrize("name", MODULES)
def test_it_is_the_diagonal_and_takes_whole_products_only_where_it_must(name: str) -> None:
    f, x = made(name)
    diagonal, whole = layer_diagonal(f, x)
    torch.testing.assert_close(diagonal, hessian_diagonal(f, x, method="columns"), rtol=1e-9, atol=1e-12)
    assert len(whole) == MODULES[name][1]


@pytest.mark.parametrize("loss", [*LOSSES][1:])
@pytest.mark.parametrize("name", ["tanh", "kinks and pools", "residual"])
def test_other_losses(name: str, loss: str) -> None:
    f, x = made(name, loss)
    diagonal, whole = layer_diagonal(f, x)
    torch.testing.assert_close(diagonal, hessian_diagonal(f, x, method="columns"), rtol=1e-9, atol=1e-12)
    assert not whole


def test_tokens_that_are_samples_of_their_own() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, targets = torch.randn(N, 4, 3).double(), torch.randint(3, (N, 4))
    for loss, unknown in ((lambda z, y: F.cross_entropy(z.transpose(1, 2), y), 0), (_pooled, 31)):
        f, x = from_module(module, loss, (inputs, targets))
        assert len(layer_diagonal(f, x)[1]) == unknown
        true = hessian_diagonal(f, x, method="columns")
        torch.testing.assert_close(hessian_diagonal(f, x, method="layers"), true, rtol=1e-9, atol=1e-12)


def _pooled(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z.mean(1), y[:, 0])


def test_weights_of_ones_own() -> None:
    """Matrices, shifts and scales of a function that has no module, at a structure of tensors."""
    torch.manual_seed(0)
    a, y = torch.randn(N, 3).double(), torch.randn(N, 2).double()
    x = {
        "w": torch.randn(3, 4),
        "b": torch.randn(4),
        "s": torch.randn(4),
        "v": torch.randn(4, 2),
        "unused": torch.ones(2),
    }
    x = {name: t.double() for name, t in x.items()}

    def f(x: dict[str, Tensor]) -> Tensor:
        return ((((a @ x["w"] + x["b"]).tanh() * x["s"]) @ x["v"] - y) ** 2).sum()

    true, found = (hessian_diagonal(f, x, method=m) for m in ("columns", "layers"))
    for name in x:
        torch.testing.assert_close(found[name], true[name], rtol=1e-9, atol=1e-12)


def test_a_penalty_on_weights_is_seen() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z, y) + module[0].weight.pow(4).sum()

    f, x = from_module(module, loss, (torch.randn(N, 3).double(), torch.randint(3, (N,))))
    assert layer_diagonal(f, x)[1] == [*range(12)]
    true, found = (hessian_diagonal(f, x, method=m) for m in ("columns", "layers"))
    torch.testing.assert_close(found, true, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("f", [lambda x: x.sum(), lambda x: torch.ones(()), lambda x: (x**3).sum()])
def test_functions_without_layers(f: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(hessian_diagonal(f, x, method="layers"), hessian_diagonal(f, x, method="columns"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "in place", "convolutions"])
def test_prepared(name: str) -> None:
    f, x = made(name)
    p = prepare(hessian_diagonal, f, x, method="layers", preparation="graph")
    assert p.preparation == "graph", p.explain()
    for point in (x, x * 1.1):
        torch.testing.assert_close(p(point), hessian_diagonal(f, point, method="columns"), rtol=1e-9, atol=1e-12)


def test_prepared_where_products_with_the_whole_hessian_are_made() -> None:
    torch.manual_seed(0)
    a, x = torch.randn(3, 2).double(), torch.randn(4).double()
    f = lambda x: ((a @ x.view(2, 2)).sin() ** 2).sum() + x[1] ** 4  # noqa: E731
    assert layer_diagonal(f, x)[1] == [1]
    p = prepare(hessian_diagonal, f, x, method="layers", preparation="graph")
    assert p.preparation == "graph", p.explain()
    torch.testing.assert_close(p(2 * x), hessian_diagonal(f, 2 * x, method="columns"))

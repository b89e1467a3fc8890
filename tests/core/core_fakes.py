"""What tests of several rooms differentiate: tensors, networks, and the sine as an autograd.Function in every form."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

F64 = torch.float64


def mostly_slow(values: Iterable[Any], every: int = 10) -> list[Any]:
    """Values to parametrise an expensive test with: one in ``every`` in the fast loop too, the others marked slow."""
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*row, marks=() if i % every == 0 else pytest.mark.slow) for i, row in enumerate(rows)]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Normal numbers on the CPU, whatever the default device; the same for every dtype."""
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=F64, device="cpu").to(dtype)


def labels(*shape: int, classes: int = 3, seed: int = 7) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def with_spectrum(values: Tensor, seed: int = 0) -> Tensor:
    """A symmetric matrix of these eigenvalues."""
    q, _ = torch.linalg.qr(normal(len(values), len(values), seed=seed))
    return q * values @ q.T


def fill(module: nn.Module, dtype: torch.dtype = F64) -> Any:
    """The module, with fixed parameters."""
    module = module.to(dtype)
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(normal(*p.shape, seed=100 + i) * (p[0].numel() ** -0.5 if p.dim() > 1 else 0.3))
    return module


def left_by(call: Callable[[], object], calls: int = 100) -> int:
    """Bytes of tensors that so many calls, after three, leave for Python to reach."""

    def alive() -> int:
        gc.collect()
        return sum(o.nbytes for o in gc.get_objects() if issubclass(type(o), Tensor))

    for _ in range(3):
        call()
    before = alive()
    for _ in range(calls):
        call()
    return alive() - before


def rosenbrock(x: Tensor) -> Tensor:
    """Chained, as scipy.optimize.rosen."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def filled(*layers: nn.Module) -> Any:
    """Layers in sequence, with fixed parameters."""
    return fill(nn.Sequential(*layers))


def mlp() -> nn.Module:
    return fill(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))


def coupled_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean().sqrt()


def squares(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).mean()


def weighted(y: Tensor) -> Tensor:
    """A curved function of whatever an operator returns, so that no error can cancel."""
    return (y.sin() * torch.linspace(0.3, 1.7, y.numel(), dtype=F64).reshape(y.shape)).sum()


def convex(x: Tensor) -> Tensor:
    flat = x.reshape(-1)
    return torch.logsumexp(flat, 0) + 0.5 * flat.square().sum() + (flat * flat.roll(1)).sum() * 0.2


def classification(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Any, Tensor, Tensor]:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.copy_(normal(*p.shape, seed=20 + i))
    return module, nn.CrossEntropyLoss(), normal(5, 3, seed=3, dtype=dtype), torch.tensor([0, 1, 2, 1, 0])


# Of the tests of modules called with other tensors.
X = normal(5, 3)
Y = normal(5, 3, seed=1)
LABELS = torch.tensor([0, 1, 2, 0, 1])


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).to(F64)


def plain_gradient(module: nn.Module, value: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(module.parameters()))])


def flat(gradient: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradient.values()])


class Sine(torch.autograd.Function):
    """Differentiable any number of times in reverse; no forward mode, no vmap."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.cos()


class BatchedSine(Sine):
    generate_vmap_rule = True


class OnceSine(BatchedSine):
    backward = staticmethod(once_differentiable(Sine.backward))


class SineWithJvp(BatchedSine):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return t * x.cos()


class OnceSineWithJvp(SineWithJvp):
    backward = staticmethod(once_differentiable(Sine.backward))

"""Training loss of a small regression network under squared error, on Friedman's first function."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import hograd_core
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import product_operations, times, total

FEATURES = 5


def _operations(s: Spec) -> dict[str, int]:
    tanh = {"transcendental": s.batch * s.n}
    first = total(product_operations(s.batch, FEATURES, s.n, bias=True), tanh)
    further = total(product_operations(s.batch, s.n, s.n, bias=True), tanh)
    head = product_operations(s.batch, s.n, 1, bias=True)
    loss = {"add": s.batch + s.batch - 1, "mul": s.batch, "div": 1}
    return total(first, times(s.depth - 1, further), head, loss)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """What ``F.mse_loss`` computes, by operations that have forward-over-reverse derivatives in PyTorch."""
    return ((outputs - targets) ** 2).sum() / targets.numel()


@problem(
    "friedman_loss",
    formula="f(θ) = mean_b (w·h_b + c − y_b)², h = tanh(… tanh(W₁ a_b + c₁) …), y = Friedman's function of a, θ flat",
    source="Friedman 1991, Ann. Statist. 19, eq. 61, targets divided by 10; network: Bishop 2006, §5.2",
    family="application",
    sizes={"n": "width of every hidden layer", "depth": "hidden layers", "batch": "examples"},
    provides=("module", "loss", "inputs", "targets"),
    operations=_operations,
)
def friedman_loss(spec: Spec, draw: Draw) -> Instance:
    """Inputs uniform on [0, 1)⁵, no noise: 10 sin(π a₁ a₂) + 20 (a₃ − ½)² + 10 a₄ + 5 a₅, over 10."""
    inputs = draw.uniform(spec.batch, FEATURES)
    a = inputs.double()
    values = 10 * torch.sin(math.pi * a[:, 0] * a[:, 1]) + 20 * (a[:, 2] - 0.5) ** 2 + 10 * a[:, 3] + 5 * a[:, 4]
    targets = draw.tensor(values[:, None] / 10)
    layers: list[nn.Module] = []
    for i in range(spec.depth):
        layers += [nn.Linear(spec.n if i else FEATURES, spec.n), nn.Tanh()]
    module = draw.module(nn.Sequential(*layers, nn.Linear(spec.n, 1)))
    f, x = hograd_core.from_module(module, squared_error, (inputs, targets))
    extras = {"module": module, "loss": F.mse_loss, "inputs": inputs, "targets": targets}
    return Instance(f, x, extras=extras)

"""Training loss of a small regression network under squared error, on Friedman's first function."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812

import hograd_core
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import total
from hograd_bench.problems._workloads import perceptron, perceptron_operations, squared_error, squared_error_operations

FEATURES = 5


def _operations(s: Spec) -> dict[str, int]:
    return total(perceptron_operations(s.batch, FEATURES, s.n, s.depth), squared_error_operations(s.batch))


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
    module = draw.module(perceptron(FEATURES, spec.n, spec.depth))
    f, x = hograd_core.from_module(module, squared_error, (inputs, targets))
    extras = {"module": module, "loss": F.mse_loss, "inputs": inputs, "targets": targets}
    return Instance(f, x, extras=extras)

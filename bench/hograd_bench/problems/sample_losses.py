"""Losses of single samples: derivatives for each of a batch, by ``in_dims``."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import CLASSES, total
from hograd_bench.problems.params_loss import hidden_operations, logits, weights


def _operations(s: Spec) -> dict[str, int]:
    """Of one sample: log-sum-exp shifted by the maximum, the product with the label, their difference."""
    loss = {
        "compare": CLASSES - 1,
        "transcendental": CLASSES + 1,
        "mul": CLASSES,
        "add": CLASSES + CLASSES - 1 + 1 + CLASSES - 1 + 1,
    }
    return total(hidden_operations(s, 1), loss)


@problem(
    "sample_losses",
    formula="f(θ) = log Σ_c exp(z_c) − yᵀz, z = W h + c, h = tanh(… tanh(W₁ a + c₁) …), for each sample (a, y) alone",
    source="per-sample derivatives as in torch.func's tutorial; the loss: Bishop 2006, eq. 4.108",
    family="network",
    sizes={"n": "width of the input and of every hidden layer", "depth": "hidden layers", "batch": "samples"},
    operations=_operations,
)
def sample_losses(spec: Spec, draw: Draw) -> Instance:
    """One set of weights for all samples; labels as vectors of 0 and 1."""
    params, inputs = weights(spec, draw), draw.normal(spec.batch, spec.n)
    labels = draw.tensor(F.one_hot(draw.integers(CLASSES, spec.batch), CLASSES).double())

    def f(params: dict[str, Any], a: Tensor, y: Tensor) -> Tensor:
        z = logits(params, a)
        return z.logsumexp(-1) - (y * z).sum()

    return Instance(f, params, args=(inputs, labels), in_dims=(None, 0, 0))

"""The loss of a network as people hold it: weights in a structure, the batch passed beside them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import (
    CLASSES,
    cross_entropy_operations,
    product_operations,
    times,
    total,
)


def weights(spec: Spec, draw: Draw) -> dict[str, Any]:
    """{"hidden": one {"weight", "bias"} a layer, "head": the same}, normal of scale 1/sqrt(fan in), biases of 0.1."""

    def layer(width: int) -> dict[str, Tensor]:
        return {"weight": draw.normal(width, spec.n, scale=spec.n**-0.5), "bias": draw.normal(width, scale=0.1)}

    return {"hidden": [layer(spec.n) for _ in range(spec.depth)], "head": layer(CLASSES)}


def logits(params: dict[str, Any], inputs: Tensor) -> Tensor:
    """Of one input of n features, or of a batch of them."""
    for layer in params["hidden"]:
        inputs = torch.tanh(F.linear(inputs, layer["weight"], layer["bias"]))
    return F.linear(inputs, params["head"]["weight"], params["head"]["bias"])


def hidden_operations(s: Spec, batch: int) -> dict[str, int]:
    """Of the logits."""
    hidden = total(product_operations(batch, s.n, s.n, bias=True), {"transcendental": batch * s.n})
    return total(times(s.depth, hidden), product_operations(batch, s.n, CLASSES, bias=True))


@problem(
    "params_loss",
    formula="f(θ) = mean_b CE(W h_b + c, y_b), h = tanh(… tanh(W₁ a_b + c₁) …), θ a structure, (a, y) beside it",
    source="as mlp_loss (Rumelhart, Hinton & Williams 1986), in the form of torch.func.functional_call and of JAX",
    family="network",
    sizes={"n": "width of the input and of every hidden layer", "depth": "hidden layers", "batch": "examples"},
    operations=lambda s: total(hidden_operations(s, s.batch), cross_entropy_operations(s.batch)),
)
def params_loss(spec: Spec, draw: Draw) -> Instance:
    """Inputs normal, labels uniform over 3 classes; the function of ``mlp_loss``, called as ``f(params, a, y)``."""
    inputs, targets = draw.normal(spec.batch, spec.n), draw.integers(CLASSES, spec.batch)

    def f(params: dict[str, Any], inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits(params, inputs), targets)

    return Instance(f, weights(spec, draw), args=(inputs, targets))

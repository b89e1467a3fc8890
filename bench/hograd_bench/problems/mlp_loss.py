"""Training loss of a multilayer perceptron over its flat parameters: the researcher's everyday case."""

from __future__ import annotations

from torch import nn

from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import (
    CLASSES,
    classification,
    cross_entropy_operations,
    product_operations,
    times,
    total,
)


def _operations(s: Spec) -> dict[str, int]:
    hidden = total(product_operations(s.batch, s.n, s.n, bias=True), {"transcendental": s.batch * s.n})
    head = product_operations(s.batch, s.n, CLASSES, bias=True)
    return total(times(s.depth, hidden), head, cross_entropy_operations(s.batch))


@problem(
    "mlp_loss",
    formula="f(θ) = mean_b CE(W h_b + c, y_b), h = tanh(… tanh(W₁ a_b + c₁) …), θ all weights and biases, flat",
    source="Rumelhart, Hinton & Williams 1986, with cross-entropy: Bishop 2006, §5.2",
    family="network",
    sizes={"n": "width of the input and of every hidden layer", "depth": "hidden layers", "batch": "examples"},
    provides=("module", "loss", "inputs", "targets"),
    operations=_operations,
)
def mlp_loss(spec: Spec, draw: Draw) -> Instance:
    """Inputs normal, labels uniform over 3 classes; smooth (tanh), so every order of derivative is alive."""
    inputs = draw.normal(spec.batch, spec.n)
    layers: list[nn.Module] = []
    for _ in range(spec.depth):
        layers += [nn.Linear(spec.n, spec.n), nn.Tanh()]
    return classification(draw.module(nn.Sequential(*layers, nn.Linear(spec.n, CLASSES))), draw, inputs)

"""Pieces of the application workloads: f is the plain training loss, without any derivative inside.

So a gradient of f is the plain training step, and an application's time in gradient equivalents is its cost in
plain training steps.
"""

from __future__ import annotations

from torch import Tensor, nn

from hograd_bench.problems._networks import product_operations, times, total


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of squared differences, in operations that every differentiation mode knows."""
    return ((prediction - target) ** 2).sum() / target.numel()


def squared_error_operations(count: int) -> dict[str, int]:
    """Operations of :func:`squared_error` on ``count`` numbers."""
    return {"add": count + count - 1, "mul": count, "div": 1}


def perceptron(inputs: int, width: int, depth: int) -> nn.Module:
    """``inputs`` -> width (tanh), ``depth`` hidden layers in all, -> 1."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else inputs, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def perceptron_operations(rows: int, inputs: int, width: int, depth: int) -> dict[str, int]:
    """Operations of :func:`perceptron` on ``rows`` inputs."""
    return total(
        product_operations(rows, inputs, width, bias=True),
        times(depth - 1, product_operations(rows, width, width, bias=True)),
        {"transcendental": rows * width * depth},
        product_operations(rows, width, 1, bias=True),
    )

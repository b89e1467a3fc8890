"""A multilayer perceptron as a function of its INPUT: fixed weights, cost O(depth n²)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hograd_bench.problems._closed_forms import along_lines
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._series import Series


@problem(
    "mlp",
    formula="f(x) = Σ h², h = tanh(… tanh(tanh(x A₁) A₂) … A_d)",
    source="Rumelhart, Hinton & Williams 1986 (with tanh); derivatives by series: Griewank & Walther 2008, ch. 13",
    family="dense",
    sizes={"n": "dimension of x and of every layer", "depth": "number of layers d"},
    operations=lambda s: {
        "mul": s.depth * s.n**2 + s.n,
        "add": s.depth * s.n * (s.n - 1) + s.n - 1,
        "transcendental": s.depth * s.n,
    },
)
def mlp(spec: Spec, draw: Draw) -> Instance:
    """Weights I + N/2, N normal of scale n^-1/2: activations neither saturate nor die as n or depth grows."""
    eye = torch.eye(spec.n, dtype=torch.float64)
    noise = (draw.normal(spec.n, spec.n, scale=0.5 * spec.n**-0.5) for _ in range(spec.depth))
    weights = [draw.tensor(eye + drawn.to("cpu", torch.float64)) for drawn in noise]
    x = draw.normal(spec.n)

    def f(x: Tensor) -> Tensor:
        for a in weights:
            x = (x @ a).tanh()
        return (x**2).sum()

    def layers(x: Series) -> list[Series]:
        outputs = [x]
        for a in weights:
            outputs.append(outputs[-1].map(_times(a)).tanh())
        return outputs

    def value(x: Series) -> Series:
        h = layers(x)[-1]
        return (h * h).map(torch.sum)

    def gradient(x: Series) -> Series:
        outputs = layers(x)[1:]
        bar = outputs[-1] * 2.0
        for a, h in zip(reversed(weights), reversed(outputs), strict=True):
            bar = (bar - bar * h * h).map(_times(a.T))
        return bar

    return Instance(f, x, closed_form=along_lines(x, value, gradient))


def _times(a: Tensor) -> Callable[[Tensor], Tensor]:
    """Multiplication by a from the right."""
    return lambda c: c @ a

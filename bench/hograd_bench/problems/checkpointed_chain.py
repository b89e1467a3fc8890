"""The chain of tanh in checkpointed segments: what recomputing instead of saving is worth at each order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hograd_bench.problems._closed_forms import separable
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._series import Series

SEGMENT = 8
"""Steps of a segment, of which the first alone keeps its input."""


def _segment(x: Tensor) -> Tensor:
    for _ in range(SEGMENT):
        x = x.tanh()
    return x


@problem(
    "checkpointed_chain",
    formula="f(x) = Σ tanh(tanh(…tanh(xᵢ))), 8 T times, in T segments that are recomputed in the reverse sweep",
    source="Chen et al. 2016 (sublinear memory); torch.utils.checkpoint(use_reentrant=False)",
    family="elementwise",
    sizes={"n": "dimension of x", "depth": "segments T of 8 steps"},
    operations=lambda s: {"transcendental": SEGMENT * s.n * s.depth, "add": s.n - 1},
)
def checkpointed_chain(spec: Spec, draw: Draw) -> Instance:
    """As ``tanh_chain`` of 8 T steps: hold its bytes by depth against those."""
    x = draw.uniform(spec.n, low=0.5, high=1.5)

    def f(x: Tensor) -> Tensor:
        for _ in range(spec.depth):
            x = checkpoint(_segment, x, use_reentrant=False)
        return x.sum()

    def derivative(order: int) -> Tensor:
        series = Series.line(x, torch.ones_like(x), order)
        for _ in range(SEGMENT * spec.depth):
            series = series.tanh()
        return series.derivative(order)

    return Instance(f, x, closed_form=separable(x, derivative))

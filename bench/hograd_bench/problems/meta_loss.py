"""Sinusoid regression by MAML: the workload of the meta-gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import hograd_core
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import total
from hograd_bench.problems._workloads import perceptron, perceptron_operations, squared_error, squared_error_operations

TASKS = 2
RATE = 0.01
"""The source's inner rate; ten times larger, sixteen inner steps amplify float32 rounding beyond any tolerance."""


def _operations(s: Spec) -> dict[str, int]:
    rows = TASKS * s.batch
    return total(perceptron_operations(rows, 1, s.n, 2), squared_error_operations(rows))


@problem(
    "meta_loss",
    formula="f(θ) = mean over tasks and points of (u(x) − a sin(x + φ))², u a perceptron with tanh, θ flat",
    source="Finn, Abbeel & Levine 2017, §5.1 (sinusoid regression), two tasks",
    family="application",
    sizes={"n": "width of the two hidden layers", "depth": "inner steps", "batch": "points of a set, of each task"},
    provides=("model", "loss", "support", "query", "inner_steps", "inner_rate"),
    operations=_operations,
)
def meta_loss(spec: Spec, draw: Draw) -> Instance:
    """Amplitudes in [0.1, 5], phases in [0, π], x in [−5, 5], as in the source; f takes no inner step."""
    amplitude = draw.uniform(TASKS, 1, 1, low=0.1, high=5).double().cpu()
    phase = draw.uniform(TASKS, 1, 1, high=math.pi).double().cpu()

    def points() -> tuple[Tensor, Tensor]:
        x = draw.uniform(TASKS, spec.batch, 1, low=-5, high=5)
        return x, draw.tensor(amplitude * torch.sin(x.double().cpu() + phase))

    support, query = points(), points()
    model = draw.module(perceptron(1, spec.n, 2))
    f, x = hograd_core.from_module(model, squared_error, (query[0].flatten(0, 1), query[1].flatten(0, 1)))
    extras = {"model": model, "loss": squared_error, "support": support, "query": query}
    return Instance(f, x, extras={**extras, "inner_steps": spec.depth, "inner_rate": RATE})

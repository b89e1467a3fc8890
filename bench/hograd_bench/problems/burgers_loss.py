"""A network u(x, t) and Burgers' equation: the workload of a physics-informed training step."""

from __future__ import annotations

import math

import hograd_core
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import total
from hograd_bench.problems._workloads import perceptron, perceptron_operations, squared_error, squared_error_operations
from hograd_core.applications.pinn import burgers


def _operations(s: Spec) -> dict[str, int]:
    return total(perceptron_operations(s.batch, 2, s.n, s.depth), squared_error_operations(s.batch))


@problem(
    "burgers_loss",
    formula="f(θ) = mean_b (u(p_b) − y_b)², u a perceptron with tanh on (x, t), θ its parameters, flat",
    source="Raissi, Perdikaris & Karniadakis 2019, appendix A (data term; the residual is Burgers')",
    family="application",
    sizes={"n": "width of the hidden layers", "depth": "hidden layers", "batch": "points"},
    provides=("u", "points", "equation"),
    operations=_operations,
)
def burgers_loss(spec: Spec, draw: Draw) -> Instance:
    """Points uniform in [−1, 1] × [0, 1], targets uniform in [1, 2]; viscosity 0.01/π as in the source."""
    points = draw.uniform(spec.batch, 2)
    points[:, 0] = 2 * points[:, 0] - 1
    points = draw.tensor(points.double().cpu())
    targets = draw.uniform(spec.batch, 1, low=1, high=2)
    u = draw.module(perceptron(2, spec.n, spec.depth))
    f, x = hograd_core.from_module(u, squared_error, (points, targets))
    return Instance(f, x, extras={"u": u, "points": points, "equation": burgers(0.01 / math.pi)})

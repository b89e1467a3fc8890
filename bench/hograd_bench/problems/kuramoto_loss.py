"""A network u(x, t) and the Kuramoto–Sivashinsky equation: a training step with fourth derivatives."""

from __future__ import annotations

import hograd_core
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import total
from hograd_bench.problems._workloads import perceptron, perceptron_operations, squared_error, squared_error_operations
from hograd_core.applications.pinn import kuramoto_sivashinsky


def _operations(s: Spec) -> dict[str, int]:
    return total(perceptron_operations(s.batch, 2, s.n, s.depth), squared_error_operations(s.batch))


@problem(
    "kuramoto_loss",
    formula="f(θ) = mean_b (u(p_b) − y_b)², u a perceptron with tanh on (x, t), θ its parameters, flat",
    source="Kassam & Trefethen 2005 (the equation of the residual); Raissi et al. 2019, §2 (data term)",
    family="application",
    sizes={"n": "width of the hidden layers", "depth": "hidden layers", "batch": "points"},
    provides=("u", "points", "equation"),
    operations=_operations,
)
def kuramoto_loss(spec: Spec, draw: Draw) -> Instance:
    """Points uniform in [0, 1]², targets uniform in [1, 2]."""
    points = draw.uniform(spec.batch, 2)
    targets = draw.uniform(spec.batch, 1, low=1, high=2)
    u = draw.module(perceptron(2, spec.n, spec.depth))
    f, x = hograd_core.from_module(u, squared_error, (points, targets))
    return Instance(f, x, extras={"u": u, "points": points, "equation": kuramoto_sivashinsky()})

"""A network u on ℝⁿ over a batch of points: the workload of Laplacians and other differential operators."""

from __future__ import annotations

import hograd_core
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import total
from hograd_bench.problems._workloads import perceptron, perceptron_operations, squared_error, squared_error_operations

WIDTH = 4


def _operations(s: Spec) -> dict[str, int]:
    return total(perceptron_operations(s.batch, s.n, WIDTH, s.depth), squared_error_operations(s.batch))


@problem(
    "field_loss",
    formula="f(θ) = mean_b (u(p_b) − y_b)², u a perceptron of width 4 with tanh on ℝⁿ, θ its parameters, flat",
    source="Raissi, Perdikaris & Karniadakis 2019, §2 (the data term)",
    family="application",
    sizes={"n": "dimension of the points", "depth": "hidden layers", "batch": "points"},
    provides=("u", "points", "indices"),
    operations=_operations,
)
def field_loss(spec: Spec, draw: Draw) -> Instance:
    """Points uniform in [−1, 1]ⁿ, targets in [1, 2]; partial derivatives of orders 0 to 4, pure and mixed."""
    points = draw.uniform(spec.batch, spec.n, low=-1, high=1)
    targets = draw.uniform(spec.batch, 1, low=1, high=2)
    u = draw.module(perceptron(spec.n, WIDTH, spec.depth))
    f, x = hograd_core.from_module(u, squared_error, (points, targets))
    last = spec.n - 1
    indices = [(), (0,), (0, 0), (0, last), (0, 0, last), (0, 0, last, last)]
    return Instance(f, x, extras={"u": u, "points": points, "indices": indices})

"""jax.experimental.jet: Taylor mode (Bettencourt, Johnson & Duvenaud 2019), compiled by jit."""

from __future__ import annotations

from typing import Any

from hograd_bench.peers import _jax
from hograd_bench.peers._contract import Peer, Prepared, Task

PEER = Peer(
    "jax_jet",
    distribution="jax",
    home="jax-ml/jax",
    requires=("jax", "jaxlib", "ml_dtypes", "opt_einsum"),
    framework="JAX",
    set_up=_jax.set_up,
)


def _series(f: Any, x: Any, v: Any, order: int) -> Any:
    """d^order/dt^order of f(x + t v) at 0."""
    import jax.numpy as jnp
    from jax.experimental.jet import jet

    direction = [v] + [jnp.zeros_like(v)] * (order - 1)
    return jet(f, (x,), (direction,))[1][-1]


@PEER.method("directional_derivative", "jit(jet(f))")
def directional_derivative(task: Task) -> Prepared:
    """All derivatives up to the order along v; the last counts."""
    f, constants = _jax.twin(task)
    x, v = _jax.array(task.x), _jax.array(task.v)

    def function(x: Any, v: Any, *constants: Any) -> Any:
        return _series(lambda y: f(y, *constants), x, v, task.cell.order)

    return _jax.compiled(function, (x, v, *constants), lambda: float(f(x, *constants)))


@PEER.method("laplacian", "jit(vmap(vmap(jet(u))))")
def laplacian(task: Task) -> Prepared:
    """Second derivatives along the coordinates, summed, at every point."""
    import jax
    import jax.numpy as jnp

    net = _jax.network(task.extra("u"))
    points = _jax.array(task.extra("points"))

    def function(parameters: Any, points: Any) -> Any:
        eye = jnp.eye(points.shape[1], dtype=points.dtype)

        def at(point: Any) -> Any:
            return jnp.sum(jax.vmap(lambda e: _series(lambda b: net.apply(parameters, b)[0], point, e, 2))(eye))

        return jax.vmap(at)(points)

    return _jax.compiled(function, (net.parameters, points), _jax.field_value(task, net))

"""JAX: the operators as its documentation writes them, and by ``jax.experimental.jet``; compiled by jit."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812

from hograd_bench.peers import _jax
from hograd_bench.peers._contract import Peer, Prepared, Task

PEER = Peer(
    "jax",
    distribution="jax",
    home="jax-ml/jax",
    requires=("jax", "jaxlib", "ml_dtypes", "opt_einsum"),
    framework="JAX",
    set_up=_jax.set_up,
)


def _of_model(task: Task, operator: Any, *extra: Any, tensors: Any = None) -> Prepared:
    """A compiled operator (value, parameters, inputs, targets, *extra) -> result."""
    model = _jax.training_loss(task)

    def function(parameters: Any, inputs: Any, targets: Any, *rest: Any) -> Any:
        return operator(lambda p: model.value(p, inputs, targets), parameters, *rest)

    return _jax.compiled(
        function,
        (model.net.parameters, model.inputs, model.targets, *extra),
        lambda: float(model.value(model.net.parameters, model.inputs, model.targets)),
        tensors or model.net.flat,
    )


def _forward_over_reverse(f: Any, x: Any, v: Any) -> Any:
    import jax

    return jax.jvp(jax.grad(f), (x,), (v,))[1]


def _reverse_over_reverse(f: Any, x: Any, v: Any) -> Any:
    import jax

    _, pull = jax.vjp(jax.grad(f), x)
    return pull(v)[0]


def _hvp(task: Task, product: Any) -> Prepared:
    if "module" in task.instance.extras:
        return _of_model(task, product, _jax.training_loss(task).net.tree(task.v))
    f, constants = _jax.twin(task)
    x, v = _jax.array(task.x), _jax.array(task.v)

    def function(x: Any, v: Any, *constants: Any) -> Any:
        return product(lambda x: f(x, *constants), x, v)

    return _jax.compiled(function, (x, v, *constants), lambda: float(f(x, *constants)))


@PEER.method("hvp", "jit(jvp(grad(f)))")
def hvp(task: Task) -> Prepared:
    """Forward over reverse."""
    return _hvp(task, _forward_over_reverse)


@PEER.method("hvp", "jit(vjp(grad(f)))", variant="vjp_of_grad")
def hvp_reverse(task: Task) -> Prepared:
    """Reverse over reverse."""
    return _hvp(task, _reverse_over_reverse)


def _dense(f: Any, parameters: Any) -> Any:
    import jax
    from jax.flatten_util import ravel_pytree

    flat, unravel = ravel_pytree(parameters)
    return jax.hessian(lambda x: f(unravel(x)))(flat)


@PEER.method("hessian", "jit(hessian(f))")
def hessian(task: Task) -> Prepared:
    """Forward over reverse, vectorised over the coordinates."""
    if "module" in task.instance.extras:
        return _of_model(task, _dense, tensors=_jax.to_torch)
    f, constants = _jax.twin(task)
    x = _jax.array(task.x)
    return _jax.compiled(
        lambda x, *rest: _dense(lambda y: f(y, *rest), x), (x, *constants), lambda: float(f(x, *constants))
    )


@PEER.method("hessian_diagonal", "jit(vmap(jvp(jvp(f))))")
def hessian_diagonal(task: Task) -> Prepared:
    """Second directional derivatives along the coordinates, forward over forward."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    def diagonal(f: Any, parameters: Any) -> Any:
        flat, unravel = ravel_pytree(parameters)

        def along(e: Any) -> Any:
            def slope(x: Any) -> Any:
                return jax.jvp(lambda y: f(unravel(y)), (x,), (e,))[1]

            return jax.jvp(slope, (flat,), (e,))[1]

        return jax.vmap(along)(jnp.eye(flat.size, dtype=flat.dtype))

    return _of_model(task, diagonal, tensors=_jax.to_torch)


@PEER.method("hessian_extreme_eigenvalues", "jit(eigvalsh(hessian(f)))")
def extreme_eigenvalues(task: Task) -> Prepared:
    """Both ends of the full spectrum."""
    import jax.numpy as jnp

    return _of_model(task, lambda f, p: jnp.linalg.eigvalsh(_dense(f, p))[jnp.array([0, -1])], tensors=_jax.to_torch)


@PEER.method("gauss_newton_vector_product", "jit(vjp(hvp of the loss(jvp)))")
def gauss_newton(task: Task) -> Prepared:
    """jvp of the network, Hessian of the loss by its outputs, vjp."""
    import jax

    model = _jax.training_loss(task)

    def product(parameters: Any, inputs: Any, targets: Any, v: Any) -> Any:
        def outputs(p: Any) -> Any:
            return model.net.apply(p, inputs)

        at, tangent = jax.jvp(outputs, (parameters,), (v,))
        curved = _forward_over_reverse(lambda z: model.loss(z, targets), at, tangent)
        return jax.vjp(outputs, parameters)[1](curved)[0]

    arguments = (model.net.parameters, model.inputs, model.targets)
    return _jax.compiled(
        product,
        (*arguments, model.net.tree(task.v)),
        lambda: float(model.value(*arguments)),
        model.net.flat,
    )


@PEER.method("empirical_fisher_diagonal", "jit(mean(vmap(grad(f))**2))")
def empirical_fisher_diagonal(task: Task) -> Prepared:
    """Mean of squared per-sample gradients."""
    import jax
    import jax.numpy as jnp

    model = _jax.training_loss(task)

    def diagonal(parameters: Any, inputs: Any, targets: Any) -> Any:
        def of_sample(a: Any, y: Any) -> Any:
            return jax.grad(model.value)(parameters, a[None], y[None])

        return jax.tree_util.tree_map(lambda g: jnp.mean(g**2, 0), jax.vmap(of_sample)(inputs, targets))

    arguments = (model.net.parameters, model.inputs, model.targets)
    return _jax.compiled(diagonal, arguments, lambda: float(model.value(*arguments)), model.net.flat)


@PEER.method("fisher_diagonal", "jit(vmap(jacrev(logits)))")
def fisher_diagonal(task: Task) -> Prepared:
    """mean_b Σ_c p_c J_c² − (Σ_c p_c J_c)², J the Jacobian of a sample's logits."""
    import jax
    import jax.numpy as jnp

    if task.extra("loss") is not F.cross_entropy:
        raise LookupError("loss: written for the softmax cross-entropy only")
    model = _jax.training_loss(task)

    def diagonal(parameters: Any, inputs: Any) -> Any:
        def of_sample(a: Any) -> Any:
            p = jax.nn.softmax(model.net.apply(parameters, a))
            jacobian = jax.jacrev(lambda theta: model.net.apply(theta, a))(parameters)

            def entries(j: Any) -> Any:
                return jnp.tensordot(p, j**2, 1) - jnp.tensordot(p, j, 1) ** 2

            return jax.tree_util.tree_map(entries, jacobian)

        return jax.tree_util.tree_map(lambda d: jnp.mean(d, 0), jax.vmap(of_sample)(inputs))

    return _jax.compiled(
        diagonal,
        (model.net.parameters, model.inputs),
        lambda: float(model.value(model.net.parameters, model.inputs, model.targets)),
        model.net.flat,
    )


@PEER.method("directional_derivative", "jit(nested jvp)")
def directional_derivative(task: Task) -> Prepared:
    """jvp of jvp of ... of t -> f(x + t v)."""
    import jax

    f, constants = _jax.twin(task)
    x, v = _jax.array(task.x), _jax.array(task.v)

    def function(x: Any, v: Any, *constants: Any) -> Any:
        def derivative(order: int) -> Any:
            if order == 0:
                return lambda y: f(y, *constants)
            return lambda y: jax.jvp(derivative(order - 1), (y,), (v,))[1]

        return derivative(task.cell.order)(x)

    return _jax.compiled(function, (x, v, *constants), lambda: float(f(x, *constants)))


@PEER.method("laplacian", "jit(vmap(trace(hessian(u))))")
def laplacian(task: Task) -> Prepared:
    """The trace of the full Hessian at every point."""
    import jax
    import jax.numpy as jnp

    net = _jax.network(task.extra("u"))
    points = _jax.array(task.extra("points"))

    def function(parameters: Any, points: Any) -> Any:
        return jax.vmap(lambda a: jnp.trace(jax.hessian(lambda b: net.apply(parameters, b)[0])(a)))(points)

    return _jax.compiled(function, (net.parameters, points), _jax.field_value(task, net))


def _series(f: Any, x: Any, v: Any, order: int) -> Any:
    """d^order/dt^order of f(x + t v) at 0, by Taylor mode (Bettencourt, Johnson & Duvenaud 2019)."""
    import jax.numpy as jnp
    from jax.experimental.jet import jet

    direction = [v] + [jnp.zeros_like(v)] * (order - 1)
    return jet(f, (x,), (direction,))[1][-1]


@PEER.method("directional_derivative", "jit(jet(f))", variant="jet")
def directional_derivative_by_jet(task: Task) -> Prepared:
    """All derivatives up to the order along v; the last counts."""
    f, constants = _jax.twin(task)
    x, v = _jax.array(task.x), _jax.array(task.v)

    def function(x: Any, v: Any, *constants: Any) -> Any:
        return _series(lambda y: f(y, *constants), x, v, task.cell.order)

    return _jax.compiled(function, (x, v, *constants), lambda: float(f(x, *constants)))


@PEER.method("laplacian", "jit(vmap(vmap(jet(u))))", variant="jet")
def laplacian_by_jet(task: Task) -> Prepared:
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

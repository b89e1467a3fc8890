"""What the JAX adapters share: the problems written again in jax.numpy with the same weights, and compiled calls.

JAX at its best on one thread: jit, float64 allowed, no asynchronous dispatch (on one core it only waits for itself),
parameters as a tree of arrays, data as arguments, so that nothing of them is folded into the program.
"""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hograd_bench.peers._contract import Prepared, Task

VARIABLES: Mapping[str, str] = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}


@functools.cache
def set_up() -> None:
    """Before the first import: its variables, and one CPU for this process, since XLA's pool takes all it may use."""
    os.environ |= {name: os.environ.get(name, value) for name, value in VARIABLES.items()}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def array(tensor: Tensor) -> Any:
    """A tensor as an array of the same dtype, with memory of its own."""
    import jax.numpy as jnp

    return jnp.array(tensor.detach().numpy())


class Network(NamedTuple):
    """A sequential module as a function of a tree of parameters.

    Attributes:
        apply: (parameters, inputs of one sample or a batch) -> outputs.
        parameters: [(weight, bias), ...], the module's own.
        tree: flat torch vector -> such a tree.
        flat: such a tree -> flat torch vector in float64.
    """

    apply: Callable[[Any, Any], Any]
    parameters: Any
    tree: Callable[[Tensor], Any]
    flat: Callable[[Any], Tensor]


def network(module: nn.Module) -> Network:
    """Translate a Sequential of Linear and Tanh layers.

    Raises:
        LookupError: a layer that has no translation here.
    """
    import jax
    import jax.numpy as jnp

    layers = list(module.children())
    strange = [type(layer).__name__ for layer in layers if not isinstance(layer, nn.Linear | nn.Tanh)]
    if strange or not isinstance(module, nn.Sequential):
        raise LookupError(f"module: {(strange or [type(module).__name__])[0]} has no translation to jax.numpy here")
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if any(layer.bias is None for layer in linear):
        raise LookupError("module: a Linear layer without bias has no translation to jax.numpy here")

    def apply(parameters: Any, inputs: Any) -> Any:
        rest = iter(parameters)
        for layer in layers:
            if isinstance(layer, nn.Linear):
                weight, bias = next(rest)
                inputs = inputs @ weight.T + bias
            else:
                inputs = jnp.tanh(inputs)
        return inputs

    def tree(vector: Tensor) -> Any:
        parts = iter(torch.split(vector, [p.numel() for layer in linear for p in (layer.weight, layer.bias)]))
        return [(array(next(parts).reshape(la.weight.shape)), array(next(parts))) for la in linear]

    def flat(result: Any) -> Tensor:
        return torch.cat([to_torch(leaf).reshape(-1) for leaf in jax.tree_util.tree_leaves(result)])

    return Network(apply, [(array(la.weight), array(la.bias)) for la in linear], tree, flat)


def losses() -> Mapping[Any, Callable[[Any, Any], Any]]:
    """torch's functional losses in jax.numpy: (outputs, targets) -> scalar, the mean over the batch."""
    import jax
    import jax.numpy as jnp

    def cross_entropy(outputs: Any, targets: Any) -> Any:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs, -1), targets[:, None], -1))

    def squared_error(outputs: Any, targets: Any) -> Any:
        return jnp.mean((outputs - targets) ** 2)

    return {F.cross_entropy: cross_entropy, F.mse_loss: squared_error}


class Loss(NamedTuple):
    """A model's training loss in JAX: ``value(parameters, inputs, targets)``."""

    net: Network
    loss: Callable[[Any, Any], Any]
    value: Callable[[Any, Any, Any], Any]
    inputs: Any
    targets: Any


def training_loss(task: Task) -> Loss:
    """The problem's module and loss, translated.

    Raises:
        LookupError: the module or the loss has no translation.
    """
    net = network(task.extra("module"))
    known = losses()
    given = task.extra("loss")
    if given not in known:
        raise LookupError(f"loss: {getattr(given, '__name__', given)} has no translation to jax.numpy here")
    loss = known[given]

    def value(parameters: Any, inputs: Any, targets: Any) -> Any:
        return loss(net.apply(parameters, inputs), targets)

    return Loss(net, loss, value, array(task.extra("inputs")), array(task.extra("targets")))


def _mlp(task: Task) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import jax.numpy as jnp

    # The very tensors that the torch function closes over.
    weights = tuple(array(a) for a in inspect.getclosurevars(task.f).nonlocals["weights"])

    def f(x: Any, weights: Any) -> Any:
        for a in weights:
            x = jnp.tanh(x @ a)
        return jnp.sum(x**2)

    return f, (weights,)


def _sin_chain(task: Task) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import jax.numpy as jnp

    def f(x: Any) -> Any:
        for _ in range(task.cell.depth):
            x = jnp.sin(x)
        return jnp.sum(x)

    return f, ()


TWINS: Mapping[str, Callable[[Task], tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    "mlp": _mlp,
    "sin_chain": _sin_chain,
}
"""Problem -> its function of x in jax.numpy, and further arguments of it."""


def twin(task: Task) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The problem's f as (x, *constants) -> scalar, and the constants.

    Raises:
        LookupError: nobody has written it in jax.numpy.
    """
    if task.cell.problem not in TWINS:
        raise LookupError(f"problem: {task.cell.problem} is not written in jax.numpy")
    return TWINS[task.cell.problem](task)


def to_torch(result: Any) -> Tensor:
    """An array as a float64 tensor."""
    import numpy as np

    return torch.from_numpy(np.array(result, dtype=np.float64))


def compiled(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    value: Callable[[], float],
    tensors: Callable[[Any], Tensor] = to_torch,
) -> Prepared:
    """``jit(function)(*arguments)``, finished when it returns; compiled here, and timed as compilation."""
    import jax

    jitted = jax.jit(function)
    start = time.perf_counter()
    program = jitted.lower(*arguments).compile()
    seconds = time.perf_counter() - start

    def readings() -> Mapping[str, float]:
        stats = program.memory_analysis()
        peak = int(stats.temp_size_in_bytes + stats.output_size_in_bytes)
        return {"xla_peak_bytes": peak, "compile_seconds": seconds}

    return Prepared(lambda: jax.block_until_ready(jitted(*arguments)), value, tensors, readings)


def field_value(task: Task, net: Network) -> Callable[[], float]:
    """The sum of u over the points, as :func:`.value_of` takes it."""
    import jax.numpy as jnp

    points = array(task.extra("points"))
    return lambda: float(jnp.sum(net.apply(net.parameters, points)))

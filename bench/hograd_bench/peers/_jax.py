"""What the JAX adapters share: the problems written again in jax.numpy with the same weights, and compiled calls.

JAX at its best on few threads: jit, float64 allowed, no asynchronous dispatch (the caller only waits for it),
parameters as a tree of arrays, data as arguments, so that nothing of them is folded into the program.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hograd_bench.peers._contract import Prepared, Task
from hograd_bench.problems._networks import AttentionBlock, MeanOverPixels, MeanOverTokens


@functools.cache
def set_up(threads: int = 1) -> None:
    """Best before the first import: its variables, and as many CPUs as threads: XLA's pool takes all it may use."""
    variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"}
    os.environ |= {name: os.environ.get(name, value) for name, value in variables.items()}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    import jax

    jax.config.update("jax_enable_x64", True)  # by variable it is heard at the first import alone
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def array(tensor: Tensor) -> Any:
    """A tensor as an array of the same dtype, with memory of its own."""
    import jax.numpy as jnp

    return jnp.array(tensor.detach().numpy())


class Network(NamedTuple):
    """A sequential module as a function of its parameters.

    Attributes:
        apply: (parameters, inputs of one sample or a batch) -> outputs; convolutions and pooling take a batch.
        parameters: arrays, the module's own, in the order of ``module.parameters()``.
        tree: flat torch vector -> such a list.
        flat: such a list -> flat torch vector in float64.
    """

    apply: Callable[[Any, Any], Any]
    parameters: Any
    tree: Callable[[Tensor], Any]
    flat: Callable[[Any], Tensor]


def _linear(_: nn.Linear, inputs: Any, weight: Any, bias: Any = 0) -> Any:
    return inputs @ weight.T + bias


def _tanh(_: nn.Tanh, inputs: Any) -> Any:
    import jax.numpy as jnp

    return jnp.tanh(inputs)


def _convolution(layer: nn.Conv2d, inputs: Any, weight: Any, bias: Any) -> Any:
    import jax

    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or layer.dilation != (1, 1) or layer.groups != 1:
        raise LookupError(f"module: {layer} has no translation to jax.numpy here")
    padding = [(p, p) for p in layer.padding]
    return jax.lax.conv_general_dilated(inputs, weight, layer.stride, padding) + bias[:, None, None]


def _attention(block: AttentionBlock, inputs: Any, *weights: Any) -> Any:
    import jax

    query, key, value, out = (w.T for w in weights)
    scores = (inputs @ query) @ (inputs @ key).swapaxes(-2, -1) * block.scale
    return inputs + jax.nn.softmax(scores, -1) @ (inputs @ value) @ out


LAYERS: Mapping[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: _linear,
    nn.Tanh: _tanh,
    nn.Conv2d: _convolution,
    AttentionBlock: _attention,
    MeanOverTokens: lambda _, inputs: inputs.mean(1),
    MeanOverPixels: lambda _, inputs: inputs.mean((-2, -1)),
}
"""A layer -> (layer, inputs, *its parameters) -> outputs, in jax.numpy."""


def network(module: nn.Module) -> Network:
    """Translate a Sequential of layers in :data:`LAYERS`.

    Raises:
        LookupError: a layer that has no translation here.
    """
    import jax

    layers = list(module.children())
    strange = [type(layer).__name__ for layer in layers if type(layer) not in LAYERS]
    if strange or not isinstance(module, nn.Sequential):
        raise LookupError(f"module: {(strange or [type(module).__name__])[0]} has no translation to jax.numpy here")
    counts = [len(list(layer.parameters())) for layer in layers]

    def apply(parameters: Any, inputs: Any) -> Any:
        rest = iter(parameters)
        for layer, count in zip(layers, counts, strict=True):
            inputs = LAYERS[type(layer)](layer, inputs, *itertools.islice(rest, count))
        return inputs

    own = list(module.parameters())

    def tree(vector: Tensor) -> Any:
        parts = torch.split(vector, [p.numel() for p in own])
        return [array(part.reshape(p.shape)) for part, p in zip(parts, own, strict=True)]

    def flat(result: Any) -> Tensor:
        return torch.cat([to_torch(leaf).reshape(-1) for leaf in jax.tree_util.tree_leaves(result)])

    return Network(apply, [array(p) for p in own], tree, flat)


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

"""A torch.nn.Module with a loss and a batch as a scalar function of one flat parameter vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hograd_core._checks import ScalarFunction
from hograd_core._functional import Functional, ordinary

Loss = Callable[[Any, Any], Tensor]


def from_module(module: nn.Module, loss: Loss, inputs: Any, targets: Any) -> tuple[ScalarFunction, Tensor]:
    """The loss of a module on a batch, as f of its flattened trainable parameters, and the point they are at.

    ``f(x)`` splits x into the parameters, in the order of ``module.named_parameters()`` (a tied parameter once), and
    evaluates ``loss(module(inputs), targets)`` with them. Parameters with ``requires_grad=False`` are constants, not in
    x. f calls a copy of the module that shares all else with it (``_functional``), and the loss refers to that copy
    wherever it refers to the module (a closure over it for weight decay, one of its methods): f is pure and may be
    called from several threads, what forward writes (batch statistics, a counter) is dropped, and checkpoints
    (``use_reentrant=False``) recompute with x. Training or evaluation mode is the module's at the time of the call;
    dropout in training mode is random, so that derivatives of its loss are not defined.

    Args:
        module: any module; neither its parameters nor their ``.grad``, its buffers or other attributes are changed.
        loss: (output, targets) -> 0-dimensional tensor; ``torch.nn.functional.mse_loss`` has no forward-over-reverse
            derivative in PyTorch 2.13 (pytorch/pytorch#123996), ``((a - b) ** 2).mean()`` has.
        inputs: the module's argument; a tuple is spread over its positional arguments.
        targets: second argument of ``loss``.

    Returns:
        ``(f, x)``: x holds n = Σ numel elements in the dtype and on the device of the trainable parameters, a detached
        copy.

    Raises:
        TypeError: ``module`` is not a module, ``loss`` is not callable, or a trainable parameter is not a real
            floating tensor; the module is scripted, spread over devices or lazy.
        ValueError: there is no trainable parameter, or they differ in dtype or device; later, when f is called: module
            or loss use the module's own parameters through a global variable, which a copy cannot follow.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: got {type(module).__name__}, expected a torch.nn.Module")
    if not callable(loss):
        raise TypeError(f"loss: got {type(loss).__name__}, expected a callable of (output, targets)")
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError("module: got no parameter with requires_grad=True, expected at least one; unfreeze some")
    kinds = {(p.dtype, p.device) for p in trainable.values()}
    if len(kinds) > 1:
        raise ValueError(
            f"module: got trainable parameters of {len(kinds)} kinds ({sorted(map(str, kinds))}), expected one dtype "
            "on one device; convert with module.to(...)"
        )
    ((dtype, _),) = kinds
    if not dtype.is_floating_point:
        raise TypeError(f"module: got parameters of dtype {dtype}, expected a real floating dtype")
    shapes = {name: p.shape for name, p in trainable.items()}
    sizes = [shape.numel() for shape in shapes.values()]
    function = Functional(module, loss)

    def f(x: Tensor) -> Tensor:
        pieces = torch.split(x.reshape(-1), sizes)
        values = {n: piece.reshape(shape) for (n, shape), piece in zip(shapes.items(), pieces, strict=True)}
        value: Tensor = function.evaluate(values, lambda module, loss: loss(module(*arguments), wanted), arguments)
        return value

    # Outside inference mode, so that autograd may save them.
    with torch.inference_mode(False):
        arguments, wanted = ordinary(inputs if isinstance(inputs, tuple) else (inputs,)), ordinary(targets)
        x = torch.cat([p.detach().reshape(-1) for p in trainable.values()])
    return f, x

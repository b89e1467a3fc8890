"""What the applications ask of a torch.nn.Module: its trainable parameters by name, and calls with others in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hograd_core._functional import Functional
from hograd_core._unsupported import UnsupportedError
from hograd_core.curvature._model import check_dtype
from hograd_core.module import check_modes

Parameters = dict[str, Tensor]


def check_module(module: Any, name: str) -> nn.Module:
    """Return ``module`` after checking that there is something to train.

    Raises:
        TypeError: not a module.
        ValueError: no parameter requires a gradient.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name}: got {type(module).__name__}, expected a torch.nn.Module")
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError(f"{name}: got no parameter with requires_grad=True, expected at least one; unfreeze some")
    return module


def check_samplewise(module: Any, x: Tensor, name: str, argument: str) -> nn.Module:
    """Return ``module`` after checking that what it makes of a sample of ``x`` depends on that sample alone.

    Raises:
        TypeError: not a module, or ``x`` has another dtype than its parameters.
        ValueError: a layer in training mode is random or couples samples.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"{argument}: got {type(module).__name__}, expected a torch.nn.Module")
    check_modes(module, per_sample=True, argument=argument)
    check_dtype(x, module, name, argument)
    return module


def trainable(module: nn.Module) -> Parameters:
    """Trainable parameters by name, the module's own tensors; a tied one once.

    One that was made in inference mode, from which autograd cannot record, is a copy.
    """
    found = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return {name: p.clone().requires_grad_() if p.is_inference() else p for name, p in found.items()}


def detached(parameters: Mapping[str, Tensor]) -> Parameters:
    """The same values as new leaves' data: no graph, shared memory."""
    return {name: p.clone() if p.is_inference() else p.detach() for name, p in parameters.items()}


def gradient_of(scalar: Tensor, parameters: Mapping[str, Tensor], *, create_graph: bool = False) -> Parameters:
    """Gradients by name, zeros where the scalar does not depend on a parameter.

    Raises:
        UnsupportedError: the graph passes through a custom function that can be differentiated only once.
    """
    if not scalar.requires_grad:
        return {name: torch.zeros_like(p) for name, p in parameters.items()}
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        scalar, list(parameters.values()), create_graph=create_graph, allow_unused=True
    )
    if any(g is None for g in found):
        _refuse_dead_ends(scalar)
    return {
        name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(parameters.items(), found, strict=True)
    }


def _refuse_dead_ends(scalar: Tensor) -> None:
    """Tell "does not depend on" from "cannot be differentiated": autograd.grad reports both as unused.

    Behind a function marked once_differentiable PyTorch puts a node that raises only when it runs, and with the inputs
    of the gradient behind it, it never runs.
    """
    stack, seen = [scalar.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "Error":
            raise UnsupportedError(
                "double backward", "trying to differentiate twice a function that was marked with @once_differentiable"
            )
        stack.extend(next_node for next_node, _ in node.next_functions)


def called_with(module: nn.Module, parameters: Mapping[str, Tensor]) -> Callable[..., Any]:
    """The module as a function of its inputs, with these parameters in place of its own.

    Buffers enter as clones, fresh at every call, and the module is never touched (:mod:`hograd_core._functional`).
    """
    function = Functional(module)

    def call(*inputs: Any) -> Any:
        return function(parameters, inputs)

    return call

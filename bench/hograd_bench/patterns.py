"""Code patterns that the claims are about, as an operator of their own: what each leaves behind is measured.

They are no kernels to use: `hograd_core` computes the same without a leak. Importing this module declares them.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

import hograd_core
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.reference import Truth, true_value, truth


@operator(result="x", default="grad_create_graph", order=1)
def kept_graph_gradient(f: Any, x: Tensor, **how: Unpack[How]) -> Tensor:
    """The gradient of f at x, written so that its graph is kept for a further derivative that is then not taken.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.

    Returns:
        A detached tensor with the shape, dtype and device of x. Cost: a gradient, plus the graph of the gradient
        (none for ``retain_graph``); what is left of the graph afterwards is the pattern's own.

    Raises:
        TypeError, ValueError: as `hograd_core.gradient`.
    """
    return to_method(*hograd_core.gradient.guard(f, x))


@truth(kept_graph_gradient)
def _true_gradient(f: Any, x: Tensor) -> Any:
    return true_value("gradient", f, x)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_(True)


@method(kept_graph_gradient, "grad_create_graph", mode="reverse", source="torch.autograd.grad(create_graph=True)")
def grad_create_graph(f: Any, x: Tensor) -> Tensor:
    """The gradient is returned, not stored: its graph goes when the last name of it goes."""
    point = _leaf(x)
    value = f(point)
    if not value.requires_grad:
        return torch.zeros_like(x)
    (g,) = torch.autograd.grad(value, point, create_graph=True, allow_unused=True, materialize_grads=True)
    return g.detach().clone()


@method(kept_graph_gradient, "retain_graph", mode="reverse", source="torch.Tensor.backward(retain_graph=True)")
def retain_graph(f: Any, x: Tensor) -> Tensor:
    """The graph of f is kept for another sweep; the gradient has none."""
    point = _leaf(x)
    value = f(point)
    if value.requires_grad:
        value.backward(retain_graph=True, inputs=[point])
    return torch.zeros_like(x) if point.grad is None else point.grad.clone()


@method(
    kept_graph_gradient,
    "backward_create_graph",
    mode="reverse",
    source="torch.Tensor.backward(create_graph=True), `.grad` left in place; pytorch/pytorch#4661, #7343",
)
def backward_create_graph(f: Any, x: Tensor) -> Tensor:
    """THE LEAK: the leaf owns its ``.grad``, whose graph owns the leaf, a cycle that no collector sees."""
    return _backward(f, _leaf(x)).detach().clone()


@method(
    kept_graph_gradient,
    "backward_create_graph_cleared",
    mode="reverse",
    source="torch.Tensor.backward(create_graph=True), then `.grad = None`, as PyTorch's own warning advises",
)
def backward_create_graph_cleared(f: Any, x: Tensor) -> Tensor:
    """The same with the cycle broken by hand."""
    point = _leaf(x)
    result = _backward(f, point).detach().clone()
    point.grad = None
    return result


def _backward(f: Any, point: Tensor) -> Tensor:
    value = f(point)
    if value.requires_grad:
        with warnings.catch_warnings():
            # PyTorch warns of the very cycle that is measured here.
            warnings.filterwarnings("ignore", r"Using backward\(\) with create_graph=True", UserWarning)
            value.backward(create_graph=True, inputs=[point])
    return torch.zeros_like(point) if point.grad is None else point.grad


DIRECTIONS = 8
"""Products that are made at a point: as many as a block method or an estimator of a trace asks for at once."""


@operator(result="(8, n)", default="at_once", order=2, listed=False)
def several_products(f: Any, x: Tensor, v: Tensor, **how: Unpack[How]) -> Tensor:
    """Hessian-vector products with 8 directions, v with its elements shifted: at once by ``in_dims``, or in a loop.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.
        v: the first direction: shape, dtype and device of x.

    Returns:
        A detached tensor of shape (8, *x.shape).

    Raises:
        TypeError, ValueError: as `hograd_core.hvp`.
        UnsupportedError: PyTorch has no formula for a step of f by this method.
    """
    point, first = hograd_core.derivative_vector_product.guard(f, x, v)[1:]
    return to_method(f, point, torch.stack([first.roll(i) for i in range(DIRECTIONS)]))


@truth(several_products)
def _true_products(f: Any, x: Tensor, v: Tensor) -> Any:
    each: list[Any] = [true_value("derivative_vector_product", f, x, v.roll(i), order=2) for i in range(DIRECTIONS)]
    scales = [t.scale for t in each if t.scale is not None]
    return Truth(torch.stack([t.value for t in each]), max(scales, default=None))


def _several(name: str, inner: str) -> None:
    """The products by one method, at once and in a loop."""
    record = hograd_core.derivative_vector_product.methods[inner]
    declared: dict[str, Any] = {"mode": record.mode, "amounts_to": ((inner, 2),)}

    def at_once(f: Any, x: Tensor, directions: Tensor) -> Tensor:
        """All by one vmap: what does not depend on the direction is computed once."""
        return hograd_core.hvp(f, x, directions, method=inner, in_dims=(None, 0))

    def loop(f: Any, x: Tensor, directions: Tensor) -> Tensor:
        """One product after another."""
        return torch.stack([hograd_core.hvp(f, x, v, method=inner) for v in directions])

    source = f"hograd_core.hvp(in_dims=(None, 0)), {inner}"
    method(several_products, f"at_once{name}", source=source, **declared)(at_once)
    method(several_products, f"loop{name}", source=f"hograd_core.hvp in a loop, {inner}", **declared)(loop)


_several("", "vjp_of_grad")
_several("_forward", "jvp_of_grad")

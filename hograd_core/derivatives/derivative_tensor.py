"""Dᵏf(x): all nᵏ entries of the k-th derivative. Order 2: the Hessian."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import torch
from torch import Tensor

from hograd_core._checks import Function, ScalarFunction, check_chunk_size, check_point, scalar_function, zeros_for
from hograd_core._differences import check_derivative
from hograd_core._entrance import kept
from hograd_core._forward import jacfwd
from hograd_core._how import How, HowInStructure, Unpack
from hograd_core._registry import Operator, alias, method, operator, to_method
from hograd_core.arguments import in_chunks
from hograd_core.auto import Modest
from hograd_core.derivatives._autograd import grad_or_zeros, leaf, refuse_in_transform
from hograd_core.derivatives.derivative_vector_product import TensorFunction, pushforward


class _Entries(Operator):
    """What type checkers are told: a tensor of a tensor x, or with ``flat=True``; else structures of structures."""

    if TYPE_CHECKING:

        @overload
        def __call__(
            self, f: Function[Any], x: Any, order: int = 2, *, flat: Literal[True], **how: Unpack[HowInStructure]
        ) -> Tensor: ...
        @overload
        def __call__(self, f: Function[Tensor], x: Tensor, order: int = 2, **how: Unpack[How]) -> Tensor: ...
        @overload
        def __call__(self, f: Function[Any], x: Any, order: int = 2, **how: Unpack[How]) -> Any: ...
        def __call__(self, *arguments: Any, **keywords: Any) -> Any: ...


def _typed(record: Operator) -> _Entries:
    return cast("_Entries", record)  # a decorator passes no overloads on


@_typed
@operator(
    result="x * order",
    linear=True,
    default="rows",
    verification=functools.partial(check_derivative, slots=None),
)
def derivative_tensor(f: Function[Any], x: Any, order: int = 2, **how: Unpack[How]) -> Tensor:
    """All entries of the derivative of ``order``.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device; n elements.
        order: k >= 1; 2 is the Hessian.

    Returns:
        A detached tensor of shape ``x.shape * order`` (nᵏ elements) with the dtype and device of x.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional, or x is empty.
        UnsupportedError: PyTorch has no formula or batching rule for a step of f by this method.
    """
    return to_method(scalar_function(f), check_point(x))


@overload
def hessian(f: Function[Any], x: Any, *, flat: Literal[True], **how: Unpack[HowInStructure]) -> Tensor: ...
@overload
def hessian(f: Function[Tensor], x: Tensor, **how: Unpack[How]) -> Tensor: ...
@overload
def hessian(f: Function[Any], x: Any, **how: Unpack[How]) -> Any: ...
@alias(derivative_tensor, order=2)
def hessian(f: Function[Any], x: Any, **how: Unpack[How]) -> Tensor:
    """The Hessian ∇²f(x), all n² entries.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.
        **how: ``method``, one of ``derivative_tensor`` (by rows unless given), and its options (``chunk_size``, ...).

    Returns:
        A detached tensor of shape ``(*x.shape, *x.shape)`` with the dtype and device of x.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional, x is empty, or there is no such method.
        UnsupportedError: PyTorch has no formula or batching rule for a step of f by this method.
    """
    result: Tensor = derivative_tensor(f, x, 2, **how)
    return result


def _entries(out: Any, x: Tensor, order: int) -> Tensor:
    """Where the nᵏ entries go, flat: ``out``, or new memory.

    Raises:
        TypeError: ``out`` is no tensor in the dtype of x, or the result is differentiated further.
        ValueError: its shape, strides or device are others, or it lies in the memory of x.
    """
    shape = x.shape * order
    if out is None:
        return torch.empty(shape.numel(), dtype=x.dtype, device=x.device)
    if not isinstance(out, Tensor) or out.dtype != x.dtype or out.requires_grad or kept():
        got = f"{out.dtype}, requires_grad={out.requires_grad}" if isinstance(out, Tensor) else type(out).__name__
        raise TypeError(f"out: got {got}, expected a detached tensor of {x.dtype}, for a result that is detached too")
    if out.shape != shape or out.device != x.device or not out.is_contiguous():
        raise ValueError(
            f"out: got shape {tuple(out.shape)} on {out.device}, expected {tuple(shape)} on {x.device}, contiguous; "
            "of a structure x: (n, n) of its n elements"
        )
    if out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        # Even side by side: autograd takes what is written to one part for a change of the other.
        raise ValueError("out: shares its memory with x, which would change under way; give it memory of its own")
    return out.view(-1)


def _functional(f: ScalarFunction, x: Tensor, order: int, vectorize: bool) -> Tensor:
    """functional.hessian under order-2 jacobians; only levels that are differentiated again record a graph."""
    jacobian: Any = torch.autograd.functional.jacobian
    double: Any = torch.autograd.functional.hessian
    if order == 1:
        first: Tensor = jacobian(f, x, create_graph=kept(), vectorize=vectorize)
        return first
    g: TensorFunction = f
    for level in range(2, order + 1):
        differentiate = double if level == 2 else jacobian
        g = functools.partial(_apply, differentiate, g, vectorize, level < order or kept())
    return g(x)


def _apply(differentiate: Any, g: TensorFunction, vectorize: bool, create_graph: bool, x: Tensor) -> Tensor:
    result: Tensor = differentiate(g, x, create_graph=create_graph, vectorize=vectorize)
    return result


@method(
    derivative_tensor,
    "functional",
    mode="reverse over reverse, a sweep an entry",
    source="torch.autograd.functional.hessian, above order 2 of functional.jacobian",
)
def functional(f: ScalarFunction, x: Tensor, *, order: int) -> Tensor:
    """PyTorch's own: a loop over the entries of the derivative below."""
    return _functional(f, x, order, vectorize=False)


@method(
    derivative_tensor,
    "functional_vectorized",
    mode="reverse over reverse, vectorised over entries",
    source="torch.autograd.functional.hessian(vectorize=True), above order 2 of functional.jacobian",
)
def functional_vectorized(f: ScalarFunction, x: Tensor, *, order: int) -> Tensor:
    """PyTorch's own with the loop replaced by vmap: memory of all sweeps at once."""
    refuse_in_transform("functional.hessian(vectorize=True)")
    return _functional(f, x, order, vectorize=True)


def _descend(s: Tensor, point: Tensor, out: Tensor, order: int, last: bool) -> None:
    """Write the derivatives of ``order`` of s into ``out`` (n^order entries), a sweep an entry of the one below.

    ``last``: nothing needs the graph under s after this, so that its last sweep may free it.
    """
    if order == 1:
        out.copy_(grad_or_zeros(s, point, create_graph=False, retain_graph=not last).reshape(-1))
        return
    below = grad_or_zeros(s, point, create_graph=True).reshape(-1)
    if not below.requires_grad:
        out.zero_()
        return
    n = point.numel()
    for i, row in enumerate(out.view(n, -1)):
        _descend(below[i], point, row, order - 1, last and i == n - 1)


def _stacked(s: Tensor, point: Tensor, order: int) -> Tensor:
    """The same as a new tensor on the graph, where it is differentiated further; the memory of a copy more."""
    below = grad_or_zeros(s, point, create_graph=True, retain_graph=True).reshape(-1)
    return below if order == 1 else torch.stack([_stacked(entry, point, order - 1) for entry in below])


@method(
    derivative_tensor,
    "rows",
    mode="reverse over reverse, a sweep an entry",
    source="differentiate each component of the gradient, the graph retained until the last",
)
def rows(f: ScalarFunction, x: Tensor, *, order: int, out: Tensor | None = None) -> Tensor:
    """Manual rows: 1 + n + … + nᵏ⁻¹ reverse sweeps; one graph a level alive, never n of them."""
    point = leaf(x)
    if kept() and out is None:
        return _stacked(f(point), point, order).view(x.shape * order)
    entries = _entries(out, x, order)
    _descend(f(point), point, entries, order, True)
    return entries.view(x.shape * order) if out is None else out


@method(
    derivative_tensor,
    "batched_rows",
    mode="reverse over reverse, vectorised over entries",
    source="torch.autograd.grad(is_grads_batched=True)",
    in_parts=True,
)
def batched_rows(f: ScalarFunction, x: Tensor, *, order: int, chunk_size: int | None = None) -> Tensor:
    """All rows of a level in one vectorised sweep, from an identity of nʲ cotangents at level j: n²ʲ elements.

    ``chunk_size`` of them at a time at the last level (None: all at once), with one graph for all.
    """
    point = leaf(x)
    g = grad_or_zeros(f(point), point, create_graph=order > 1)
    chosen = None if isinstance(chunk_size, Modest) else check_chunk_size(chunk_size)
    for level in range(2, order + 1):
        flat = g.reshape(-1)
        if not flat.requires_grad:
            return zeros_for(x, order)
        last = level == order
        size = chunk_size.over(flat) if isinstance(chunk_size, Modest) else chosen
        if not last or size is None or (isinstance(size, int) and size >= flat.numel()):
            identity = torch.eye(flat.numel(), dtype=x.dtype, device=x.device)
            g = grad_or_zeros(flat, point, create_graph=not last, grad_outputs=identity, batched=True)
            continue
        g = in_chunks(functools.partial(_rows_of, flat, point), flat.numel(), size)
    return g.reshape(x.shape * order)


def _rows_of(flat: Tensor, point: Tensor, part: slice) -> Tensor:
    """Rows of the derivative of ``flat``, whose graph is kept."""
    positions = torch.arange(part.start, part.stop, device=point.device)
    cotangents = torch.nn.functional.one_hot(positions, flat.numel()).to(point.dtype)
    return grad_or_zeros(flat, point, create_graph=False, retain_graph=True, grad_outputs=cotangents, batched=True)


@method(
    derivative_tensor,
    "func_hessian",
    mode="forward over reverse, forward nested k-1 deep, vectorised",
    source="torch.func.hessian = jacfwd of the gradient (torch.func.grad is jacrev without its vmap); further jacfwd",
    functorch=True,
)
def func_hessian(f: ScalarFunction, x: Tensor, *, order: int) -> Tensor:
    """jacfwdᵏ⁻¹ ∘ grad: n tangents at a time through the level below."""
    g: TensorFunction = torch.func.grad(f)
    for _ in range(order - 1):
        g = jacfwd(g)
    return g(x).to(x.dtype)


@method(
    derivative_tensor,
    "jacrev_of_grad",
    mode="reverse over reverse, k deep, vectorised",
    source="torch.func.jacrev of torch.func.grad; above order 2 further jacrev",
    functorch=True,
)
def jacrev_of_grad(f: ScalarFunction, x: Tensor, *, order: int) -> Tensor:
    """jacrevᵏ⁻¹ ∘ grad: all cotangents of a level at a time."""
    g: TensorFunction = torch.func.grad(f)
    for _ in range(order - 1):
        g = torch.func.jacrev(g)
    return g(x).to(x.dtype)


def _contracted(f: ScalarFunction, x: Tensor, order: int, index: Tensor) -> Tensor:
    """Dᵏf(x)[e_i, e_j, …, ·] for the entry number ``index`` = (i, j, …) of a tensor of order k-1."""
    positions = torch.arange(x.numel(), device=x.device)
    g: TensorFunction = torch.func.grad(f)
    for _ in range(order - 1):
        # A one-hot made here, and not rows of an identity, so that chunk_size bounds this memory as well.
        tangent = (positions == index % x.numel()).to(x.dtype).reshape(x.shape)
        g = functools.partial(pushforward, g, tangent)
        index = index // x.numel()
    return g(x)


@method(
    derivative_tensor,
    "vmap_hvp",
    mode="forward over reverse, forward nested k-1 deep, vectorised over index tuples",
    source="torch.func.vmap over torch.func.jvp of torch.func.grad",
    functorch=True,
    in_parts=True,
)
def vmap_hvp(
    f: ScalarFunction, x: Tensor, *, order: int, chunk_size: int | None = None, out: Tensor | None = None
) -> Tensor:
    """nᵏ⁻¹ products with unit vectors, ``chunk_size`` of them at a time (None: all at once)."""
    items = x.numel() ** (order - 1)
    rows = None if out is None else _entries(out, x, order).view(items, *x.shape)

    def piece(part: slice) -> Tensor:
        indices = torch.arange(part.start, part.stop, device=x.device)
        entries: Tensor = torch.func.vmap(functools.partial(_contracted, f, x, order))(indices)
        return entries.to(x.dtype)

    found: Tensor = in_chunks(piece, items, check_chunk_size(chunk_size), rows)
    return found.reshape(x.shape * order) if out is None else out

"""Cleaning, of writes into views: ``as_strided``, by which PyTorch differentiates them, and what vmap makes of slices.

``as_strided`` addresses the memory of its argument, so that no other step in the place of that argument would do; it
hides from rules that it is a slice; and what writes by it has no batching rule. It becomes slices, or an index.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hograd_core.prepare.graphs._nodes import (
    aten,
    by_memory,
    insert,
    insert_constant,
    inverse,
    is_call,
    replace,
    value,
)


class _Slice(NamedTuple):
    """Of one dimension.

    Attributes:
        all: whether it is the whole dimension.
        kept: whether the result has the dimension; else it is one row of it.
    """

    start: int
    stop: int
    step: int
    all: bool
    kept: bool


def plain_views(module: GraphModule) -> None:
    """Put slices, or else an index, in the place of ``as_strided`` and ``as_strided_scatter``; before other rules."""
    for node in list(module.graph.nodes):
        if not is_call(node, aten.as_strided.default, aten.as_strided_scatter.default):
            continue
        base = cast("Node", node.args[0])
        order = by_memory(value(base))
        if not value(base).permute(order).is_contiguous() or not value(base).numel():
            continue
        plain = insert(node, aten.permute.default, base, order)
        if node.target is aten.as_strided.default:
            made = _read(module, node, plain)
        else:
            made = _write(module, node, plain)
            made = made and insert(node, aten.permute.default, made, inverse(order))
        if made is not None:
            replace(node, made)


def write_of_slice(node: Node) -> None:
    """A write by an index that counts along one dimension is one into a slice: vmap has no other for those."""
    base, dim, index, source = cast("tuple[Node, int, Node, Node]", node.args)
    shape, written = value(base).shape, value(source).shape
    if not shape or node.kwargs or written != value(index).shape or value(source).dtype != value(base).dtype:
        return
    d = dim % len(shape)
    places = _evaluated(index)
    if places is None or any(places.stride(i) and n > 1 for i, n in enumerate(written) if i != d):
        return
    if 0 in written or any(a != b for i, (a, b) in enumerate(zip(shape, written, strict=True)) if i != d):
        return
    first, n = (0,) * len(shape), written[d]
    start, step = int(places[first]), 1
    if n > 1:
        step = int(places[(*first[:d], 1, *first[d + 1 :])]) - start
    if step > 0:  # what counts counts on
        replace(
            node, insert(node, aten.slice_scatter.default, base, source, d, start, start + (n - 1) * step + 1, step)
        )


def _evaluated(node: Any) -> Tensor | None:
    """What counts and is viewed, in numbers."""
    if is_call(node, torch.ops.prims.iota.default, aten.arange.default, aten.arange.start, aten.arange.start_step):
        found: Tensor = node.target(*node.args, **node.kwargs)
        return found
    if is_call(node, aten.expand.default, aten.view.default, aten.unsqueeze.default):
        source = _evaluated(node.args[0])
        return None if source is None else node.target(source, *node.args[1:])
    return None


def _read(module: GraphModule, node: Node, base: Node) -> Node | None:
    """What ``as_strided`` of a contiguous tensor is, in strides that lie in the same order."""
    part = value(node)
    slices = _slices(value(base), part)
    if slices is not None:
        return _squeezed(node, _cut(node, base, slices), slices)
    order = by_memory(part)
    places = _places(value(base), part.permute(order))
    if places is None:
        return None
    flat = insert(node, aten.view.default, base, [-1])
    made = insert(node, aten.index.Tensor, flat, [insert_constant(module, node, places)])
    return insert(node, aten.permute.default, made, inverse(order))


def _write(module: GraphModule, node: Node, base: Node) -> Node | None:
    """What ``as_strided_scatter`` into a contiguous tensor is."""
    source, size, stride, *offset = cast("Any", (*node.args[1:], *node.kwargs.values()))
    start = next((o for o in offset if o is not None), value(base).storage_offset())
    with value(base).fake_mode:  # type: ignore[attr-defined]
        part = torch.as_strided(value(base), size, stride, start)
    slices = _slices(value(base), part)
    if slices is not None:
        for d, of in enumerate(slices):
            if not of.kept:
                source = insert(node, aten.unsqueeze.default, source, d)
        return _laid(node, base, source, slices)
    places = _places(value(base), part)
    if places is None:
        return None
    flat = insert(node, aten.view.default, base, [-1])
    put = insert(node, aten.index_put.default, flat, [insert_constant(module, node, places)], source)
    return insert(node, aten.view.default, put, list(value(base).shape))


def _slices(base: Tensor, part: Tensor) -> list[_Slice] | None:
    """What a part of a contiguous tensor is, as a slice of each dimension; None: it is no such thing."""
    offset = int(part.storage_offset() - base.storage_offset())
    if offset < 0 or 0 in part.shape:
        return None
    left = list(zip(part.shape, part.stride(), strict=True))
    found = []
    own = base.numel()
    for length in base.shape:
        own //= length
        start, offset = divmod(offset, own)
        kept = bool(left) and ((left[0][1] % own == 0 and left[0][1] >= own) or left[0][0] == 1)
        n, stride = left.pop(0) if kept else (1, own)
        step = stride // own if n > 1 else 1
        stop = start + (n - 1) * step + 1
        if stop > length:
            return None
        found.append(_Slice(start, stop, step, n == length, kept))
    return None if left or offset else found


def _cut(node: Node, base: Node, slices: list[_Slice]) -> Node:
    for d, of in enumerate(slices):
        if not of.all:
            base = insert(node, aten.slice.Tensor, base, d, of.start, of.stop, of.step)
    return base


def _squeezed(node: Node, part: Node, slices: list[_Slice]) -> Node:
    rows = [d for d, of in enumerate(slices) if not of.kept]
    return insert(node, aten.squeeze.dims, part, rows) if rows else part


def _laid(node: Node, base: Node, source: Node, slices: list[_Slice], first: int = 0) -> Node:
    """A tensor with another in the place of a part of it."""
    d = next((d for d in range(first, len(slices)) if not slices[d].all), None)
    if d is None:
        return source
    start, stop, step = slices[d][:3]
    if not all(of.all for of in slices[d + 1 :]):
        rows = insert(node, aten.slice.Tensor, base, d, start, stop, step)
        source = _laid(node, rows, source, slices, d + 1)
    return insert(node, aten.slice_scatter.default, base, source, d, start, stop, step)


def _places(base: Tensor, part: Tensor) -> Tensor | None:
    """For each element of a part of a contiguous tensor its place there; None: some are outside."""
    offset = part.storage_offset() - base.storage_offset()
    reach = sum((n - 1) * s for n, s in zip(part.shape, part.stride(), strict=True))
    if 0 in part.shape or offset < 0 or offset + reach >= base.numel():
        return None
    places = torch.arange(base.numel(), device=base.device)
    return places.as_strided(part.shape, part.stride(), offset).clone(memory_format=torch.contiguous_format)

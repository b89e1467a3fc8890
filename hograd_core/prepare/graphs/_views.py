"""Cleaning, of what moves no number: aliases, chains of views and of permutations, elementwise steps between views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node

from hograd_core.prepare.graphs._nodes import aten, insert, is_call, layout, replace, value

ALIASES = (aten.detach.default, aten.alias.default, aten.lift_fresh.default, aten.lift_fresh_copy.default)
_VIEWS = (
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.unsqueeze.default,
    aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.view_copy.default,
)  # fmt: skip
_PERMUTATIONS = (aten.permute.default, aten.t.default, aten.transpose.int, aten.permute_copy.default)
SAME = (
    *_VIEWS, *_PERMUTATIONS, aten.expand.default, aten.slice.Tensor, aten.clone.default, aten._to_copy.default,
    aten.constant_pad_nd.default, aten.as_strided.default,
)  # fmt: skip
"""What gives its argument back where shape, strides, dtype and device are the same."""
_COPIES = {
    getattr(aten, f"{name}_copy"): getattr(aten, name)
    for name in (
        "view", "t", "unsqueeze", "permute", "expand", "detach", "alias", "squeeze", "slice", "select", "transpose",
        "unbind", "split", "split_with_sizes", "as_strided",
    )
}  # fmt: skip
"""Functionalised views are copies: copy -> view."""


def views_for_copies(graph: Graph) -> None:
    """Put views in the place of copies of views: nothing writes any more."""
    for node in graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        if is_call(node) and packet in _COPIES:
            node.target = getattr(_COPIES[packet], node.target._overloadname)


def _alias(node: Node) -> None:
    (source, *_) = node.args
    replace(node, source)  # type: ignore[arg-type]


def _same(node: Node) -> bool:
    """Drop what gives back its argument; whether it did."""
    source: Any = node.args[0]
    if not isinstance(source, Node):  # a bare number
        return False
    if layout(value(source)) != layout(value(node)):
        return False
    if is_call(node, aten.as_strided.default) and value(node).storage_offset() != value(source).storage_offset():
        return False
    replace(node, source)
    return True


def _view(node: Node) -> None:
    """One view for a chain of views of a contiguous tensor."""
    if _same(node):
        return
    source: Any = node.args[0]
    base = source
    while is_call(base, *_VIEWS):
        base = base.args[0]
    if not (value(base).is_contiguous() and value(node).is_contiguous()):
        return
    if layout(value(base)) == layout(value(node)):
        replace(node, base)
    elif base is not source or node.target is not aten.view.default:
        node.target = aten.view.default
        node.args = (base, list(value(node).shape))
        node.kwargs = {}


def _row(node: Any) -> Node | None:
    """Of a vector that is a view of a matrix of one row: that matrix."""
    if is_call(node, aten.view.default) and value(node.args[0]).shape == (1, *value(node).shape):
        return node.args[0]  # type: ignore[no-any-return]
    return None


def on_rows(node: Node) -> None:
    """Elementwise on matrices of one row, as products make and take them, instead of on views of them."""
    vectors = node.all_input_nodes
    shape = value(node).shape
    rows = {vector: row for vector in vectors if (row := _row(vector)) is not None}
    if len(shape) != 1 or not rows or any(value(v).shape not in (shape, ()) for v in vectors):
        return
    for vector in vectors:  # of one shape, which some backward formulas insist on
        if vector not in rows and value(vector).shape == shape:
            rows[vector] = insert(node, aten.view.default, vector, [1, *shape])
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: rows.get(n, n))
    wide = insert(node, node.target, *args, **kwargs)  # type: ignore[arg-type]
    if value(wide).shape == (1, *shape) and value(wide).is_contiguous() and value(wide).dtype == value(node).dtype:
        replace(node, insert(node, aten.view.default, wide, list(shape)))
    else:
        node.graph.erase_node(wide)


def on_permuted(node: Node) -> None:
    """Elementwise on what was permuted, as products make it, instead of on permutations of it all alike."""
    arrays = [n for n in node.all_input_nodes if value(n).dim()]
    if not arrays or any(
        not is_call(n, aten.permute.default) or n.args[1] != arrays[0].args[1] or value(n).shape != value(node).shape
        for n in arrays
    ):
        return
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: n.args[0] if n in arrays else n)
    before = insert(node, node.target, *args, **kwargs)  # type: ignore[arg-type]
    after = insert(node, aten.permute.default, before, arrays[0].args[1])
    if layout(value(after)) == layout(value(node)):
        replace(node, after)
    else:
        node.graph.erase_node(after)
        node.graph.erase_node(before)


def _permutation(node: Node) -> list[int]:
    d = value(node).dim()
    if node.target is aten.permute.default:
        return [i % d for i in node.args[1]]  # type: ignore[union-attr,operator,misc]
    order = list(range(d))
    if node.target is aten.t.default:
        return order[::-1]
    a, b = (int(i) % d for i in node.args[1:3])  # type: ignore[arg-type]
    order[a], order[b] = order[b], order[a]
    return order


def _permute(node: Node) -> None:
    """One permutation for a chain of them."""
    if value(node).dim() < 2:
        replace(node, node.args[0])  # type: ignore[arg-type]
        return
    order, source = _permutation(node), node.args[0]
    if is_call(source, *_PERMUTATIONS):
        before = _permutation(source)  # type: ignore[arg-type]
        order, source = [before[i] for i in order], source.args[0]  # type: ignore[union-attr]
    if order == list(range(len(order))):
        replace(node, source)  # type: ignore[arg-type]
    else:
        node.target, node.args, node.kwargs = aten.permute.default, (source, order), {}


RULES: dict[Any, Callable[[Node], Any]] = {
    **dict.fromkeys(ALIASES, _alias),
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(_PERMUTATIONS, _permute),
}

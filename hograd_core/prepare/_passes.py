"""Cleaning: what a traced derivative computes in vain, or twice, goes; what is left computes the same, bit by bit.

A trace of nested backward passes is full of aliases, chains of views, sums with zeros and products with ones. The rules
here are exact for every value, NaN and infinity included (but for the sign of zero): none drops a product with zero.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Hashable
from typing import Any, cast

import torch
from torch.fx import Graph, GraphModule, Node

from hograd_core.prepare._graphs import aten, insert, is_call, layout, output, replace, tensors_of, value

_ALIASES = (aten.detach.default, aten.alias.default, aten.lift_fresh.default, aten.lift_fresh_copy.default)
_VIEWS = (
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.unsqueeze.default,
    aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.view_copy.default,
)  # fmt: skip
_PERMUTATIONS = (aten.permute.default, aten.t.default, aten.transpose.int, aten.permute_copy.default)
_SAME = (
    *_VIEWS, *_PERMUTATIONS, aten.expand.default, aten.slice.Tensor, aten.clone.default, aten._to_copy.default,
    aten.constant_pad_nd.default, aten.as_strided.default,
)  # fmt: skip
"""What gives its argument back where shape, strides, dtype and device are the same."""
_FULL = {
    aten.zeros.default: 0, aten.zeros_like.default: 0, aten.new_zeros.default: 0, aten._efficientzerotensor.default: 0,
    aten.ones.default: 1, aten.ones_like.default: 1, aten.new_ones.default: 1,
    aten.full.default: None, aten.full_like.default: None, aten.new_full.default: None,
}  # fmt: skip
_RANDOM = {torch.Tag.nondeterministic_seeded}
_UNWRITTEN = ("empty", "new_empty", "empty_like", "new_empty_strided", "empty_strided")
_COPIES = {
    getattr(aten, f"{name}_copy"): getattr(aten, name)
    for name in (
        "view", "t", "unsqueeze", "permute", "expand", "detach", "alias", "squeeze", "slice", "select", "transpose",
        "unbind", "split", "split_with_sizes", "as_strided",
    )
}  # fmt: skip
"""Functionalised views are copies; nothing writes any more, so that views serve."""


def clean(module: GraphModule) -> GraphModule:
    """Apply all rules until none changes anything; in place."""
    graph = module.graph
    _views_for_copies(graph)
    while True:
        before = len(graph.nodes), _targets(graph)
        for node in list(graph.nodes):
            rule = _RULES.get(node.target) if node.op == "call_function" else None
            if rule is not None:
                rule(node)
            if is_call(node) and not node._erased and torch.Tag.pointwise in getattr(node.target, "tags", ()):
                _on_rows(node)
        _join_pads(graph)
        _share(graph)
        graph.eliminate_dead_code()
        if (len(graph.nodes), _targets(graph)) == before:
            break
    graph.lint()
    module.recompile()
    return module


def _targets(graph: Graph) -> list[tuple[Any, Any]]:
    return [(node.target, node.args) for node in graph.nodes]


def _views_for_copies(graph: Graph) -> None:
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


def _on_rows(node: Node) -> None:
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


def filling(node: Any) -> float | None:
    """The number that all elements of a node have, where that is plain to see."""
    while is_call(node, *_SAME, *_ALIASES) and not is_call(node, aten.constant_pad_nd.default):
        node = node.args[0]
    if not is_call(node) or node.target not in _FULL:
        return None
    number = _FULL[node.target]
    number = node.args[1] if number is None and node.target is not aten.new_full.default else number
    number = node.args[2] if number is None else number
    return float(number) if isinstance(number, int | float) else None


def _as(source: Any, node: Node) -> None:
    """Replace a node by one of its arguments, broadcast to its shape, where the dtype is the same."""
    held, wanted = value(source), value(node)
    if held.dtype != wanted.dtype or held.device != wanted.device:
        return
    if held.shape != wanted.shape:
        source = insert(node, aten.expand.default, source, list(wanted.shape))
    replace(node, source)


def _neutral(node: Node, number: float, *, either: bool) -> None:
    a, b = node.args[:2]
    if node.kwargs.get("alpha", 1) != 1:
        return
    for kept, dropped in ((a, b), (b, a)) if either else ((a, b),):
        if isinstance(kept, Node) and (dropped == number or filling(dropped) == number):
            _as(kept, node)
            return


def _power(node: Node) -> None:
    base, exponent = node.args
    if exponent == 1:
        _as(base, node)
    elif exponent == 0:
        replace(node, insert(node, aten.full_like.default, base, 1))
    elif exponent == 2:
        node.target, node.args = aten.mul.Tensor, (base, base)


def _backward_of_slice(node: Node) -> None:
    """A slice laid into zeros is a pad."""
    arguments: dict[str, Any] = {
        **dict(zip(("into", "source", "dim", "start", "end", "step"), node.args, strict=False)), **node.kwargs
    }  # fmt: skip
    source = arguments["source"]
    if filling(arguments["into"]) != 0 or value(source).dtype != value(node).dtype:
        return
    if arguments.get("step") not in (None, 1):
        return
    dims = value(node).dim()
    d = int(arguments.get("dim", 0)) % dims
    length, part, start = value(node).shape[d], value(source).shape[d], int(arguments.get("start") or 0)
    start = min(max(start + length if start < 0 else start, 0), length)
    pad = _padding(dims, d, start, length - start - part)
    replace(node, insert(node, aten.constant_pad_nd.default, source, pad))


def _backward_of_select(node: Node) -> None:
    """A row laid into zeros is a pad."""
    into, source, d, index = cast("Any", node.args)
    if filling(into) != 0 or value(source).dtype != value(node).dtype:
        return
    dims = value(node).dim()
    d %= dims
    length = value(node).shape[d]
    index %= length
    row = insert(node, aten.unsqueeze.default, source, d)
    replace(node, insert(node, aten.constant_pad_nd.default, row, _padding(dims, d, index, length - index - 1)))


def _padding(dims: int, d: int, before: int, after: int) -> list[int]:
    pad = [0] * (2 * (dims - d))
    pad[-2:] = [before, after]
    return pad


def _part_of_cat(node: Node) -> None:
    """A part of a concatenation that was put in as one piece."""
    source, index = node.args
    if not is_call(source, aten.split_with_sizes.default) or not is_call(source.args[0], aten.cat.default):
        return
    (pieces, *dim), (_, sizes, *along) = source.args[0].args, source.args
    if [value(piece).shape for piece in pieces] == [(size,) for size in sizes] and not any((*dim, *along)):
        _as(pieces[index], node)


def _span(node: Any) -> tuple[int, int, Node] | None:
    """Of zeros around a tensor along one dimension: that dimension, where the tensor starts, and the tensor."""
    if not is_call(node, aten.constant_pad_nd.default) or (len(node.args) > 2 and node.args[2] != 0):
        return None
    pad, dims = node.args[1], value(node).dim()
    padded = [i for i in range(len(pad) // 2) if pad[2 * i] or pad[2 * i + 1]]
    if len(padded) != 1 or min(pad) < 0:
        return None
    return dims - 1 - padded[0], pad[2 * padded[0]], node.args[0]


def _summands(node: Any, *, top: bool = True) -> list[Any]:
    if not is_call(node, aten.add.Tensor) or node.kwargs or (not top and len(node.users) > 1):
        return [node]
    return [leaf for a in node.args[:2] for leaf in _summands(a, top=False)]


def _join_pads(graph: Graph) -> None:
    """A sum of disjoint pieces, each padded with zeros, is their concatenation."""
    for node in list(graph.nodes):
        if not is_call(node, aten.add.Tensor) or any(is_call(u, aten.add.Tensor) and not u.kwargs for u in node.users):
            continue
        leaves = _summands(node)
        spans = [_span(leaf) for leaf in leaves]
        if any(
            span is None or value(leaf).shape != value(node).shape for span, leaf in zip(spans, leaves, strict=True)
        ):
            continue
        found = sorted((span for span in spans if span is not None), key=lambda s: s[1])
        d = found[0][0]
        if any(span[0] != d for span in found):
            continue
        pieces: list[Node] = []
        end = 0
        for _, start, piece in found:
            if start < end:
                break
            if start > end:
                pieces.append(_zeros(node, piece, d, start - end))
            pieces.append(piece)
            end = start + value(piece).shape[d]
        else:
            if end < value(node).shape[d]:
                pieces.append(_zeros(node, pieces[-1], d, value(node).shape[d] - end))
            replace(node, insert(node, aten.cat.default, pieces, d))


def _zeros(before: Node, like: Node, d: int, size: int) -> Node:
    shape = [*value(like).shape]
    shape[d] = size
    return insert(before, aten.new_zeros.default, like, shape)


def _share(graph: Graph) -> None:
    """Compute once what is computed twice."""
    seen: dict[Hashable, Node] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            key: Hashable = node.target
        elif not is_call(node) or _RANDOM & set(getattr(node.target, "tags", ())) or _is_unwritten(node):
            continue
        else:
            key = node.target, _key(node.args), _key(tuple(sorted(node.kwargs.items())))
        if key in seen:
            replace(node, seen[key])
        else:
            seen[key] = node


def _is_unwritten(node: Node) -> bool:
    packet = getattr(node.target, "overloadpacket", None)
    return packet is not None and packet.__name__ in _UNWRITTEN


def _key(argument: Any) -> Hashable:
    if isinstance(argument, list | tuple):
        return tuple(map(_key, argument))
    # 2 and 2.0 and True are equal, and promote otherwise.
    return type(argument), argument if isinstance(argument, Hashable) else id(argument)


def own_result(graph: Graph) -> None:
    """Have a graph return memory of its own, never an input, a constant or a view of one."""
    returned = output(graph)
    given = [v.untyped_storage()._cdata for n in graph.nodes if not is_call(n) for v in tensors_of(n)]
    for node in returned.all_input_nodes:
        memory = value(node).untyped_storage()
        whole = memory.nbytes() == value(node).numel() * value(node).element_size()
        if memory._cdata in given or not value(node).is_contiguous() or not whole:
            own = insert(returned, aten.clone.default, node, memory_format=torch.contiguous_format)
            returned.replace_input_with(node, own)


_RULES: dict[Any, Callable[[Node], Any]] = {
    **dict.fromkeys(_ALIASES, _alias),
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_VIEWS, _view),
    **dict.fromkeys(_PERMUTATIONS, _permute),
    aten.add.Tensor: functools.partial(_neutral, number=0, either=True),
    aten.sub.Tensor: functools.partial(_neutral, number=0, either=False),
    aten.mul.Tensor: functools.partial(_neutral, number=1, either=True),
    aten.mul.Scalar: functools.partial(_neutral, number=1, either=False),
    aten.div.Tensor: functools.partial(_neutral, number=1, either=False),
    aten.div.Scalar: functools.partial(_neutral, number=1, either=False),
    aten.pow.Tensor_Scalar: _power,
    operator.getitem: _part_of_cat,
    aten.slice_scatter.default: _backward_of_slice,
    aten.select_scatter.default: _backward_of_select,
}

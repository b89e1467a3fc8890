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

from hograd_core.prepare.graphs import _views
from hograd_core.prepare.graphs._nodes import (
    aten,
    by_memory,
    insert,
    inverse,
    is_call,
    is_elementwise,
    layout,
    output,
    replace,
    tensors_of,
    value,
)
from hograd_core.prepare.graphs._pads import backward_of_select, backward_of_slice, filling, join_pads
from hograd_core.prepare.graphs._strided import plain_views, write_of_slice

_RANDOM = {torch.Tag.nondeterministic_seeded}
_UNWRITTEN = ("empty", "new_empty", "empty_like", "new_empty_strided", "empty_strided")


def clean(module: GraphModule) -> GraphModule:
    """Apply all rules until none changes anything; in place."""
    graph = module.graph
    graph.eliminate_dead_code()  # zeros of forward mode leave operations on no device, some of them of bare numbers
    _views.views_for_copies(graph)
    plain_views(module)
    while True:
        before = len(graph.nodes), _targets(graph)
        for node in list(graph.nodes):
            rule = _RULES.get(node.target) if node.op == "call_function" else None
            if rule is not None:
                rule(node)
            if not node._erased and is_elementwise(node):
                _views.on_rows(node)
                if not node._erased:
                    _views.on_permuted(node)
        join_pads(graph)
        _share(graph)
        graph.eliminate_dead_code()
        if (len(graph.nodes), _targets(graph)) == before:
            break
    graph.lint()
    module.recompile()
    return module


def _targets(graph: Graph) -> list[tuple[Any, Any]]:
    return [(node.target, node.args) for node in graph.nodes]


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


def _copy(node: Node) -> None:
    """What was written over all of a tensor, in the order in which that lay in memory, instead of that tensor."""
    source = cast("Node", node.args[1])
    held, wanted = value(source), value(node)
    if held.device != wanted.device:
        return
    if held.dtype != wanted.dtype:
        source = insert(node, aten._to_copy.default, source, dtype=wanted.dtype)
    if held.shape != wanted.shape:
        source = insert(node, aten.expand.default, source, list(wanted.shape))
    if layout(value(source)) != layout(wanted):
        order = by_memory(wanted)
        source = insert(node, aten.permute.default, source, order)
        source = insert(node, aten.clone.default, source, memory_format=torch.contiguous_format)
        source = insert(node, aten.permute.default, source, inverse(order))
    replace(node, source)


def _power(node: Node) -> None:
    base, exponent = node.args
    if value(base).dtype != value(node).dtype:  # of integers, by a float: it computes in another dtype
        return
    if exponent == 1:
        _as(base, node)
    elif exponent == 0:
        replace(node, insert(node, aten.full_like.default, base, 1))
    elif exponent == 2:
        node.target, node.args = aten.mul.Tensor, (base, base)


def _part_of_cat(node: Node) -> None:
    """A part of a concatenation that was put in as one piece."""
    source, index = cast("Any", node.args)
    if not is_call(source, aten.split_with_sizes.default) or not is_call(source.args[0], aten.cat.default):
        return
    (pieces, *dim), (_, sizes, *along) = source.args[0].args, source.args
    if [value(piece).shape for piece in pieces] == [(size,) for size in sizes] and not any((*dim, *along)):
        _as(pieces[index], node)


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
    **_views.RULES,
    aten.add.Tensor: functools.partial(_neutral, number=0, either=True),
    aten.sub.Tensor: functools.partial(_neutral, number=0, either=False),
    aten.mul.Tensor: functools.partial(_neutral, number=1, either=True),
    aten.mul.Scalar: functools.partial(_neutral, number=1, either=False),
    aten.div.Tensor: functools.partial(_neutral, number=1, either=False),
    aten.div.Scalar: functools.partial(_neutral, number=1, either=False),
    aten.pow.Tensor_Scalar: _power,
    aten.copy.default: _copy,
    operator.getitem: _part_of_cat,
    aten.slice_scatter.default: backward_of_slice,
    aten.select_scatter.default: backward_of_select,
    aten.scatter.src: write_of_slice,
}

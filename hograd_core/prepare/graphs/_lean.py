"""A finished graph that holds less at once: values are made when they are needed, and over what nobody needs again."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch.fx import Graph, GraphModule, Node

from hograd_core.prepare.graphs._nodes import (
    aten,
    insert,
    is_call,
    is_elementwise,
    layout,
    refresh,
    replace,
    tensors_of,
    value,
)
from hograd_core.prepare.graphs._peak import peak_bytes

_COMMUTE = (aten.mul.Tensor, aten.add.Tensor)


def lean(module: GraphModule) -> GraphModule:
    """Lower the bytes that a graph holds at once, without changing what it computes; in place, as the last pass."""
    graph = module.graph
    before, order = peak_bytes(module), list(graph.nodes)
    _delay(graph)
    if peak_bytes(module) > before:
        for node, after in pairwise(order):
            node.append(after)
    _write_over(graph)
    refresh(graph)
    graph.lint()
    module.recompile()
    return module


def storages(node: Node) -> set[int]:
    """The memory that the tensors of a node lie in."""
    return {v.untyped_storage()._cdata for v in tensors_of(node)}


def _given(graph: Graph) -> set[int]:
    """Memory that is not the graph's own: of inputs and constants."""
    return {s for node in graph.nodes if node.op in ("placeholder", "get_attr") for s in storages(node)}


def _delay(graph: Graph) -> None:
    """Compute each value as late as can be without what it is made from being kept for it."""
    given = _given(graph)
    last: dict[int, Any] = {}
    for node in reversed(list(graph.nodes)):
        read = {s for source in node.all_input_nodes for s in storages(source)} - given
        if is_call(node) and node.users:
            user: Any = min(node.users)  # nodes compare by their places
            if all(s in last and last[s] >= user for s in read):
                user.prepend(node)
        for s in read:
            last[s] = max(last.get(s, node), node)


def _write_over(graph: Graph) -> None:
    """Have elementwise operations write over an argument of theirs that is not read afterwards."""
    given = _given(graph)
    last = {s: node for node in graph.nodes for source in node.all_input_nodes for s in storages(source)}
    moved: dict[int, int] = {}
    """Memory that a value had -> the memory that it has since its operation writes over another."""

    def memory_of(node: Node) -> set[int]:
        return {moved.get(s, s) for s in storages(node)}

    for node in list(graph.nodes):
        written = _in_place(node)
        for over in (0, 1) if node.target in _COMMUTE and not node.kwargs else (0,):
            source: Any = node.args[over] if written is not None else None
            if not isinstance(source, Node) or layout(value(source)) != layout(value(node)):
                continue
            (memory,) = memory_of(source)
            others = [n for n in node.all_input_nodes if n is not source and memory in memory_of(n)]
            if memory in given or others or last[memory] is not node:
                continue
            (own,) = storages(node)
            moved[own] = memory
            args = (node.args[1], node.args[0], *node.args[2:]) if over else node.args
            made = insert(node, written, *args, **node.kwargs)
            made.meta["val"] = value(node)
            last[memory] = last.get(own, made)
            replace(node, made)
            break


def _in_place(node: Node) -> Any:
    """The operation that does the same in the memory of its first argument; None: there is none."""
    target: Any = node.target
    if not is_elementwise(node):
        return None
    packet = getattr(aten, f"{target.overloadpacket.__name__}_", None)
    return getattr(packet, target._overloadname, None)

"""Products with one matrix, merged: a matrix is read once for all rows that it multiplies."""

from __future__ import annotations

from torch.fx import Graph, GraphModule, Node

from hograd_core.prepare._graphs import aten, insert, is_call, replace, sort, value

MOST_ROWS = 8
"""A product of more rows is bound by arithmetic, not by reading its matrix."""


def merge_products(module: GraphModule, *, least: int = 0) -> GraphModule:
    """Stack the rows of independent products ``a_i @ W`` of few rows: ``cat(a) @ W``, in slices; in place.

    Args:
        module: a clean graph.
        least: elements of W from which it is done.
    """
    graph = module.graph
    while _merge_one(graph, least):
        sort(graph)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    return module


def _merge_one(graph: Graph, least: int) -> bool:
    place = {node: i for i, node in enumerate(graph.nodes)}
    behind: dict[Node, int] = {}
    by_matrix: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        # Bit i: node i is needed for this one.
        behind[node] = 0
        for source in node.all_input_nodes:
            behind[node] |= behind[source] | (1 << place[source])
        few = is_call(node, aten.mm.default) and value(node).shape[0] <= MOST_ROWS
        if few and value(node.args[1]).numel() >= least:
            by_matrix.setdefault(node.args[1], []).append(node)
    for products in by_matrix.values():
        group: list[Node] = []
        for node in products:
            independent = not any((behind[node] >> place[other]) & 1 for other in group)
            if independent and sum(value(n).shape[0] for n in [*group, node]) <= MOST_ROWS:
                group.append(node)
        if len(group) > 1:
            _stack(graph, group, max(place[source] for node in group for source in node.all_input_nodes))
            return True
    return False


def _stack(graph: Graph, group: list[Node], last: int) -> None:
    """Compute these products by one, from where all that they need is there."""
    here = list(graph.nodes)[last + 1]
    rows = insert(here, aten.cat.default, [node.args[0] for node in group], 0)
    product = insert(here, aten.mm.default, rows, group[0].args[1])
    start = 0
    parts = []
    for node in group:
        parts.append(insert(here, aten.slice.Tensor, product, 0, start, start + value(node).shape[0]))
        start += value(node).shape[0]
    for node, part in zip(group, parts, strict=True):
        replace(node, part)

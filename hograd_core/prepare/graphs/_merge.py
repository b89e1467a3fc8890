"""Products that share a factor, merged: a matrix is read once for all rows, small ones are laid side by side."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch.fx import Graph, GraphModule, Node

from hograd_core.prepare.graphs._nodes import aten, insert, is_call, replace, sort, value

MOST_ROWS = 8
"""A product of more rows is bound by arithmetic, not by reading its matrix."""
_COPIED = 2**13
"""Elements of matrices that are laid side by side in less time than a call of a product takes."""


def merge_products(module: GraphModule, *, least: int = 0, columns: bool = False) -> GraphModule:
    """Stack the rows of independent products ``a_i @ W`` of few rows: ``cat(a) @ W``, in slices; in place.

    Args:
        module: a clean graph.
        least: elements of W from which it is done.
        columns: whether small matrices of products ``a @ W_i`` of more rows are laid side by side, too.
    """
    graph = module.graph

    def one_matrix(node: Node) -> Node | None:
        few = is_call(node, aten.mm.default) and value(node).shape[0] <= MOST_ROWS
        return _factors(node)[1] if few and value(node.args[1]).numel() >= least else None

    def same_rows(node: Node) -> Node | None:
        product = is_call(node, aten.mm.default, aten.addmm.default) and not node.kwargs
        return _factors(node)[0] if columns and product and value(node).shape[0] > MOST_ROWS else None

    def few(group: Sequence[Node]) -> bool:
        return sum(value(n).shape[0] for n in group) <= MOST_ROWS

    def small(group: Sequence[Node]) -> bool:
        return sum(value(_factors(n)[1]).numel() for n in group) <= _COPIED

    while _merge_one(graph, one_matrix, few, _stack) or _merge_one(graph, same_rows, small, _beside):
        sort(graph)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    return module


def _factors(node: Node) -> Sequence[Node]:
    """The two factors of a product, to which something may be added."""
    return node.args[-2:]  # type: ignore[return-value]


def _merge_one(
    graph: Graph,
    shared: Callable[[Node], Hashable],
    fit: Callable[[Sequence[Node]], bool],
    merge: Callable[[list[Node], Node], None],
) -> bool:
    """Merge the first group of independent products that there is, if any.

    Args:
        graph: whose nodes are in order; after a merge they may not be.
        shared: the factor that a product may share with others; None: it is left alone.
        fit: whether a group is worth it.
        merge: computes a group before a node.
    """
    place = {node: i for i, node in enumerate(graph.nodes)}
    behind: dict[Node, int] = {}
    by_factor: dict[Hashable, list[Node]] = {}
    for node in graph.nodes:
        # Bit i: node i is needed for this one.
        behind[node] = 0
        for source in node.all_input_nodes:
            behind[node] |= behind[source] | (1 << place[source])
        factor = shared(node)
        if factor is not None:
            by_factor.setdefault(factor, []).append(node)
    for products in by_factor.values():
        group: list[Node] = []
        for node in products:
            independent = not any((behind[node] >> place[other]) & 1 for other in group)
            if independent and fit([*group, node]):
                group.append(node)
        if len(group) > 1:
            last = max(place[source] for node in group for source in node.all_input_nodes)
            merge(group, list(graph.nodes)[last + 1])
            return True
    return False


def _stack(group: list[Node], here: Node) -> None:
    """Rows that one matrix multiplies, as one product."""
    rows = insert(here, aten.cat.default, [node.args[0] for node in group], 0)
    product = insert(here, aten.mm.default, rows, group[0].args[1])
    _take_apart(product, group, 0, here)


def _beside(group: list[Node], here: Node) -> None:
    """Matrices that the same rows are multiplied by, as one product."""
    matrices = [_factors(node)[1] for node in group]
    if all(is_call(m, aten.permute.default) and value(m).dim() == 2 for m in matrices):  # as they lie in memory
        stacked = insert(here, aten.cat.default, [m.args[0] for m in matrices], 0)
        together = insert(here, aten.permute.default, stacked, [1, 0])
    else:
        together = insert(here, aten.cat.default, matrices, 1)
    _take_apart(insert(here, aten.mm.default, _factors(group[0])[0], together), group, 1, here)


def _take_apart(product: Node, group: list[Node], axis: int, here: Node) -> None:
    start = 0
    parts = []
    for node in group:
        end = start + value(node).shape[axis]
        part = insert(here, aten.slice.Tensor, product, axis, start, end)
        if len(node.args) == 3:
            part = insert(here, aten.add.Tensor, part, node.args[0])
        elif not value(part).is_contiguous():  # as the product was, for views of it
            part = insert(here, aten.clone.default, part, memory_format=torch.contiguous_format)
        parts.append(part)
        start = end
    for node, part in zip(group, parts, strict=True):
        replace(node, part)

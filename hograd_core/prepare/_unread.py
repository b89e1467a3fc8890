"""Rows of a product that nobody reads are not computed: of a last layer's coefficients one alone is the result."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from hograd_core.prepare._graphs import aten, insert, is_call, replace, value


def drop_unread(module: GraphModule) -> GraphModule:
    """Of a product of stacked rows that is split again, multiply those pieces alone that are used; in place."""
    graph = module.graph
    for node in list(graph.nodes):
        product: Any = node.args[0] if is_call(node, aten.split.Tensor) else None
        rows: Any = product.args[0] if is_call(product, aten.mm.default) else None
        if (
            not is_call(rows, aten.cat.default)
            or len(product.users) > 1
            or any(d for d in (*rows.args[1:], *node.args[2:]))
        ):
            continue
        parts, size = rows.args[0], node.args[1]
        read = sorted((user.args[1], user) for user in node.users if user.users)
        if any(value(part).shape[0] != size for part in parts) or not 0 < len(read) < len(parts):
            continue
        kept = [parts[i] for i, _ in read]
        left = kept[0] if len(kept) == 1 else insert(node, aten.cat.default, kept, 0)
        short = insert(node, aten.mm.default, left, product.args[1])
        for place, (_, piece) in enumerate(read):
            start = place * size
            replace(piece, short if len(kept) == 1 else insert(node, aten.slice.Tensor, short, 0, start, start + size))
    graph.eliminate_dead_code()
    module.recompile()
    return module

"""What nobody reads is not computed: coefficients of a last layer but one, gradients of a convolution."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from hograd_core.prepare.graphs._nodes import aten, insert, is_call, replace, value


def drop_unread(module: GraphModule) -> GraphModule:
    """Multiply those stacked rows alone, and compute those gradients of a convolution, that are used; in place."""
    graph = module.graph
    for node in list(graph.nodes):
        if is_call(node, aten.convolution_backward.default):
            used = {user.args[1] for user in node.users if user.users}
            node.args = (*node.args[:-1], [i in used for i in range(3)])
            continue
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

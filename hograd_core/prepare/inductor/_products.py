"""Products of small matrices and sums of such, by loops of their own: few rows, a small W, or all in the cache.

A matrix library packs what it multiplies, and takes microseconds before it starts, which for these costs more than the
product. :mod:`._sources` has the code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from hograd_core.prepare.graphs._nodes import aten, insert, is_call, replace, value
from hograd_core.prepare.graphs._pads import is_sum, summands
from hograd_core.prepare.inductor._loops import TYPES, Plan, may_be_served, operation, teach
from hograd_core.prepare.inductor._sources import PRODUCTS

MOST_ROWS, MOST_ROWS_TURNED, MOST_DOTS = 12, 7, 4
"""Rows of A up to which W is streamed; rows of A, or columns of A Wᵀ, up to which they are computed as dot products."""
SMALL, SHORT = 64, 8
"""Elements of a matrix W up to which it lies in registers, for any number of rows; its rows, up to which that is better
than dot products, whose vectors they would not fill."""
CACHED, DEEPEST = 2**17, 1024
"""Elements of A, W and A W together, and rows of W, up to which tiles are as quick as a matrix library, or quicker."""
SLIM, NARROW = 2**9, 16
"""Elements of W, and its columns, up to which they are for any number of rows of A, which are read once."""
_WORTH_A_THREAD = 2**16


def _products(a: list[Tensor], w: list[Tensor], turned_a: list[bool], turned_w: list[bool]) -> Tensor:
    """Σ A W, of matrices, or of batches of them, that are transposed or not."""
    terms = zip(a, w, turned_a, turned_w, strict=True)
    products = [torch.matmul(p.mT if i else p, q.mT if j else q) for p, q, i, j in terms]
    return functools.reduce(torch.add, products)


_SIGNATURE = "products(Tensor[] a, Tensor[] w, bool[] turned_a, bool[] turned_w) -> Tensor"
_PRODUCTS: Any = operation(_SIGNATURE, _products, PRODUCTS, __file__)


def form(rows: int, k: int, n: int, turned_a: bool, turned_w: bool) -> str | None:
    """Which loop multiplies rows x k by k x n; None: a matrix library."""
    if not turned_a:
        if k <= SHORT and k * n <= SMALL:
            return "small"
        if turned_w and (rows <= MOST_ROWS_TURNED or (n <= MOST_DOTS and rows * k <= CACHED)):
            return "rows_turned"
        if not turned_w and rows <= MOST_ROWS:
            return "rows"
        if k * n <= SMALL:
            return "small"
    slim = n <= NARROW and k * n <= SLIM and not turned_a
    return "tiles" if slim or (k <= DEEPEST and rows * k + k * n + rows * n <= CACHED) else None


def use_products(module: GraphModule) -> None:
    """Put the operation in the place of the products that it serves, and teach inductor what it is; in place."""
    graph = module.graph
    tiled: set[Node] = set()
    for node in list(graph.nodes):
        if is_call(node, aten.mm.default, aten.bmm.default):
            _serve(node, tiled)
    _sum(graph, tiled)
    if any(is_call(node, _PRODUCTS) for node in graph.nodes):
        _register()
        module.recompile()


def _serve(node: Node, tiled: set[Node]) -> None:
    """Put the operation in the place of one product where there is a loop for it; ``tiled``: those in tiles."""
    if not may_be_served(node):
        return
    a, (w, turned_w) = node.args[0], _unturned(node.args[1], node)
    (*_, rows, n), k = value(node).shape, value(a).shape[-1]
    if not _in_one_piece(value(w)) or not value(node).numel() * k:
        return
    for left, turned_a in dict.fromkeys([_unturned(a, node), (a, False)]):
        how = form(rows, k, n, turned_a, turned_w)
        if how is not None:
            made = insert(node, _PRODUCTS, [left], [w], [turned_a], [turned_w])
            if how == "tiles":
                tiled.add(made)
            replace(node, made)
            return


def _in_one_piece(matrices: Tensor) -> bool:
    """Whether each matrix lies row after row in memory, wherever the next one lies."""
    (*_, rows, columns), (*_, down, right) = matrices.shape, matrices.stride()
    return (columns == 1 or right == 1) and (rows == 1 or down == columns)


def _unturned(node: Any, before: Node) -> tuple[Any, bool]:
    """A matrix, as it lies in memory where it is the transpose of one that lies in one piece, and whether it is."""
    if _in_one_piece(value(node)) or not _in_one_piece(value(node).mT):
        return node, False
    turned = [1, 0] if value(node).dim() == 2 else [0, 2, 1]
    known = is_call(node, aten.permute.default) and node.args[1] == turned
    return (node.args[0] if known else insert(before, aten.permute.default, node, turned)), True


def _sum(graph: Graph, tiled: set[Node]) -> None:
    """One operation for the products in a sum that nothing else reads."""
    for node in list(graph.nodes):
        if not is_call(node, aten.add.Tensor) or node.kwargs or (len(node.users) == 1 and is_sum(*node.users)):
            continue
        leaves = summands(node)
        if any(not isinstance(leaf, Node) or value(leaf).dtype != value(node).dtype for leaf in leaves):
            continue
        found = [p for p in leaves if p in tiled and len(p.users) == 1 and value(p).shape == value(node).shape]
        if len(found) > 1:
            made = insert(node, _PRODUCTS, *([t for p in found for t in p.args[i]] for i in range(4)))
            for leaf in leaves:
                made = made if leaf in found else insert(node, aten.add.Tensor, leaf, made)
            replace(node, made)
    graph.eliminate_dead_code()


@functools.cache
def _register() -> None:
    teach(_PRODUCTS, PRODUCTS, _plan, matrices=True)


def _plan(
    sizes: Callable[[Any], list[int]],
    a: list[Any],
    w: list[Any],
    turned_a: list[bool],
    turned_w: list[bool],
) -> Plan:
    *batches, first, second = sizes(a[0])
    rows, n = second if turned_a[0] else first, sizes(w[0])[-2 if turned_w[0] else -1]
    batch = batches[0] if batches else 1

    def details(threads: int) -> dict[str, Any]:
        terms: list[tuple[str, int]] = []
        work = 0
        for p, of_a, of_w in zip(a, turned_a, turned_w, strict=True):
            k = sizes(p)[-2 if of_a else -1]
            how = form(rows, k, n, of_a, of_w) if len(a) == 1 else "tiles"
            given: list[Any] = [TYPES[p.get_dtype()], rows, n, k]
            given += {"tiles": [of_a, of_w, len(terms) > 0], "small": [of_w]}.get(str(how), [])
            terms.append((f"hograd_{how}<{', '.join(map(str, given)).lower()}>", k))
            # Elements of W that are read, or products in registers.
            work += k * n * {"tiles": rows // 8, "small": rows}.get(str(how), 1)
        shared = max(1, min(threads, batch * work // _WORTH_A_THREAD))
        return {"terms": terms, "batch": batch, "rows": rows, "n": n, "threads": shared}

    return [t for pair in zip(a, w, strict=True) for t in pair], [*batches, rows, n], details

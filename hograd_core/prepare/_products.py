"""Products of small matrices and sums of such, by loops of their own: few rows, a small W, or all in the cache.

A matrix library packs what it multiplies, and takes microseconds before it starts, which for these costs more than the
product. Registered with inductor as an operation of the library ``hograd``; :mod:`._sources` has the code.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from hograd_core.prepare._graphs import aten, insert, is_call, replace, value
from hograd_core.prepare._pads import is_sum, summands
from hograd_core.prepare._sources import PRODUCTS

MOST_ROWS, MOST_ROWS_TURNED, MOST_DOTS = 12, 7, 4
"""Rows of A up to which W is streamed; rows of A, or columns of A Wᵀ, up to which they are computed as dot products."""
SMALL, SHORT = 64, 8
"""Elements of a matrix W up to which it lies in registers, for any number of rows; its rows, up to which that is better
than dot products, whose vectors they would not fill."""
CACHED, DEEPEST = 2**17, 1024
"""Elements of A, W and A W together, and rows of W, up to which tiles are as quick as a matrix library, or quicker."""
FETCHED = 2**24
"""Bytes of all W of a kernel from which next rows are fetched ahead; what caches hold is read quicker without."""
_TYPES = {torch.float32: "float", torch.float64: "double"}
_WORTH_A_THREAD = 2**16

# Inductor's cache on disk knows a graph by the names of its operations: other code or choices have another name.
_NAME = f"products_{hashlib.sha256(PRODUCTS.encode() + Path(__file__).read_bytes()).hexdigest()[:12]}"
_LIBRARY: Any = torch.library.Library("hograd", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(f"{_NAME}(Tensor[] a, Tensor[] w, bool[] turned_a, bool[] turned_w, bool fetch=False) -> Tensor")


def _products(
    a: list[Tensor], w: list[Tensor], turned_a: list[bool], turned_w: list[bool], fetch: bool = False
) -> Tensor:
    """Σ A W, of matrices, or of batches of them, that are transposed or not; ``fetch``: from beyond the caches."""
    terms = zip(a, w, turned_a, turned_w, strict=True)
    products = [torch.matmul(p.mT if i else p, q.mT if j else q) for p, q, i, j in terms]
    return functools.reduce(torch.add, products)


_LIBRARY.impl(_NAME, _products, "CompositeExplicitAutograd")
_PRODUCTS: Any = getattr(torch.ops.hograd, _NAME).default


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
    return "tiles" if k <= DEEPEST and rows * k + k * n + rows * n <= CACHED else None


def use_products(module: GraphModule) -> None:
    """Put the operation in the place of the products that it serves, and teach inductor what it is; in place."""
    graph = module.graph
    tiled: set[Node] = set()
    for node in list(graph.nodes):
        if is_call(node, aten.mm.default, aten.bmm.default):
            _serve(node, tiled)
    _sum(graph, tiled)
    made = [node for node in graph.nodes if is_call(node, _PRODUCTS)]
    if made:
        matrices: list[Any] = [*dict.fromkeys(w for node in made for w in node.args[1])]
        fetch = sum(value(w).nbytes for w in matrices) >= FETCHED
        for node in made:
            node.args = (*node.args, fetch)
        _register()
        module.recompile()


def _serve(node: Node, tiled: set[Node]) -> None:
    """Put the operation in the place of one product where there is a loop for it; ``tiled``: those in tiles."""
    if value(node).dtype not in _TYPES or value(node).device.type != "cpu":
        return
    a, (w, turned_w) = node.args[0], _unturned(node.args[1])
    (*_, rows, n), k = value(node).shape, value(a).shape[-1]
    if not value(w).is_contiguous() or not value(node).numel() * k:
        return
    for left, turned_a in dict.fromkeys([_unturned(a), (a, False)]):
        how = form(rows, k, n, turned_a, turned_w)
        if how is not None:
            made = insert(node, _PRODUCTS, [left], [w], [turned_a], [turned_w])
            if how == "tiles":
                tiled.add(made)
            replace(node, made)
            return


def _unturned(node: Any) -> tuple[Any, bool]:
    """A matrix, as it lies in memory where it is the transpose of a contiguous one, and whether it is."""
    turned = is_call(node, aten.permute.default) and node.args[1] in ([1, 0], [0, 2, 1])
    return (node.args[0], True) if turned and value(node.args[0]).is_contiguous() else (node, False)


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
    from torch._inductor import ir
    from torch._inductor.codegen.cpp_template import CppTemplate
    from torch._inductor.lowering import register_lowering
    from torch._inductor.utils import parallel_num_threads

    class Products(CppTemplate):
        def __init__(
            self, a: list[Any], w: list[Any], layout: Any, turned: list[tuple[bool, bool]], fetch: bool
        ) -> None:
            super().__init__("hograd_products", [t for pair in zip(a, w, strict=True) for t in pair], layout, 1)
            self.turned, self.fetch = turned, fetch

        def render(self, **given: Any) -> str:
            nodes: Any = self.input_nodes
            y: Any = given.get("template_buffer_node")
            y = self.output_node if y is None else y
            *batches, rows, n = (int(size) for size in y.get_size())
            terms, work = [], 0
            for i, (turned_a, turned_w) in enumerate(self.turned):
                a, w = nodes[2 * i : 2 * i + 2]
                k = int(a.get_size()[-2 if turned_a else -1])
                how = form(rows, k, n, turned_a, turned_w) if len(self.turned) == 1 else "tiles"
                given_to = [_TYPES[y.get_dtype()], rows, n, k]
                given_to += {"tiles": [turned_a, turned_w, i > 0], "small": [turned_w]}.get(str(how), [self.fetch])
                terms.append((f"hograd_{how}<{', '.join(map(str, given_to)).lower()}>", a, w, k))
                # Elements of W that are read, or products in registers.
                work += k * n * {"tiles": rows // 8, "small": rows}.get(str(how), 1)
            batch = batches[0] if batches else 1
            text: str = self._template_from_string(PRODUCTS).render(
                kernel=given["kernel"], y=y, terms=terms, batch=batch, rows=rows, n=n, zeros=[0] * len(y.get_size()),
                inputs={f"T{i}": node for i, node in enumerate(nodes)},
                threads=max(1, min(parallel_num_threads(), batch * work // _WORTH_A_THREAD)),
            )  # fmt: skip
            return text

    def lower(a: list[Any], w: list[Any], turned_a: list[bool], turned_w: list[bool], fetch: bool = False) -> Any:
        lay, realize = ir.ExternKernel.require_contiguous, ir.ExternKernel.realize_input
        a, w = ([lay(realize(t)) for t in tensors] for tensors in (a, w))
        *batches, first, second = a[0].get_size()
        sizes = [*batches, second if turned_a[0] else first, w[0].get_size()[-2 if turned_w[0] else -1]]
        device: Any = a[0].get_device()
        layout = ir.FixedLayout(device, a[0].get_dtype(), sizes)
        turned = [*zip(turned_a, turned_w, strict=True)]
        return Products(a, w, layout, turned, fetch).generate().output_node()  # type: ignore[no-untyped-call]

    register_lowering(_PRODUCTS, type_promotion_kind=None)(lower)

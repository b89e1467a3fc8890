"""Hessians in two stages: a product with one direction is traced and cleaned, then made one with the whole identity.

Where a network multiplies x by a matrix, the product of the identity with that matrix is the matrix, so that no
identity is made. Where the last step is a product A B, it is computed in blocks on and below the diagonal, mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from hograd_core.prepare._batch import batched, identity_rows
from hograd_core.prepare._build import Kernel, Outputs, clean_trace, counted, finished, ready, table, unconditional
from hograd_core.prepare._task import Task
from hograd_core.prepare.graphs._nodes import aten, is_call, output, placeholders, result, value
from hograd_core.prepare.graphs._passes import clean
from hograd_core.prepare.graphs._peak import bytes_of, peak_bytes
from hograd_core.prepare.graphs._record import record
from hograd_core.prepare.graphs._split import split
from hograd_core.prepare.graphs._trace import Traced

_TRIANGULAR = 256
"""Rows from which half of the last product is worth the calls of its blocks."""
_BLOCKS = 4


def hessian(task: Task, tensors: Sequence[Tensor], preparation: str) -> Kernel:
    """The kernel of a Hessian, in chunks of rows where the task says so."""
    x, *args = tensors
    traced = unconditional(clean_trace(task.product.kernel, [x, torch.ones_like(x), *args], "compiled"))
    chunk = task.chunk_size or x.numel()
    if task.memory is None:
        return _of_rows(traced, tensors, preparation, min(chunk, x.numel()))
    while True:
        kernel = _of_rows(traced, tensors, preparation, min(chunk, x.numel()))
        if kernel.peak <= task.memory:
            return kernel
        if chunk == 1:
            raise ValueError(
                f"memory: got {task.memory:,} bytes; row by row this Hessian still needs {kernel.peak:,}, its own "
                f"{x.numel() ** 2 * x.element_size():,} included"
            )
        chunk = (chunk + 1) // 2


class _Rows(NamedTuple):
    """A graph that computes some rows of a Hessian.

    Attributes:
        graph: (*inputs, *fed) -> rows; or the left factor of them.
        fed: for each further input the place of the input whose rows it is, transposed or not; None: of an identity.
        right: (*inputs) -> the right factor, by views alone; None: the graph gives rows.
    """

    graph: GraphModule
    fed: list[tuple[int, bool] | None]
    right: GraphModule | None


def _of_rows(traced: Traced, tensors: Sequence[Tensor], preparation: str, chunk: int) -> Kernel:
    x, *args = tensors
    n, whole = x.numel(), chunk == x.numel()
    v = torch.ones_like(x)
    fixed = [x, *args, *traced.lifted]
    parts = split(traced.graph, [1])
    with torch.no_grad():
        residuals = list(parts.first(*fixed))
    inputs = [*fixed, *residuals]
    rows = _rows(batched(parts.second, [v, *inputs], 0, chunk), inputs, chunk, x)
    if whole and preparation == "compiled":
        # One graph, so that the compiler sees all of it.
        def joined(*given: Tensor) -> Any:
            return rows.graph(*given, *parts.first(*given), *_fed(rows.fed, [*given, *parts.first(*given)], 0, n, x))

        first: Outputs = lambda _: ()  # noqa: E731
        module = clean(record(joined, fixed, table("compiled")))
    else:
        own = parts.first
        first = ready(own, fixed, preparation) if residuals else lambda _: ()
        module = rows.graph
    alone = module is not rows.graph
    fed = [] if alone else _fed(rows.fed, inputs, 0, chunk, x)
    finished(module, preparation)
    kept, running = _own_bytes(residuals, fixed), _own_bytes(fed, inputs) + peak_bytes(module)
    left = bytes_of(value(result(module.graph)))
    operations = counted(module)
    run = ready(module, fixed if alone else [*inputs, *fed], preparation)

    def compute(given: list[Tensor]) -> Tensor:
        own = [*given, *first(given)]
        if rows.right is None and whole:
            return run([*own, *([] if alone else _fed(rows.fed, own, 0, n, given[0]))])[0].view(x.shape * 2)
        right = None if rows.right is None else rows.right(*given, *residuals_of(own))
        out = None if whole else torch.empty(n, n, dtype=x.dtype, device=x.device)
        for start in (min(i, n - chunk) for i in range(0, n, chunk)):
            part = run([*own, *([] if alone else _fed(rows.fed, own, start, chunk, given[0]))])[0]
            out = torch.empty(n, n, dtype=x.dtype, device=x.device) if out is None else out
            if right is None:
                out[start : start + chunk] = part.view(chunk, n)
            else:
                _lower(part, right, out, start)
            del part  # before the next one is made
        assert out is not None
        return out.view(x.shape * 2)

    def residuals_of(own: list[Tensor]) -> list[Tensor]:
        return own[len(fixed) :] if residuals and not alone else list(parts.first(*own)) if residuals else []

    out_bytes = n * n * x.element_size()
    if not whole:
        running += out_bytes
    elif rows.right is not None:
        running = max(running, left + out_bytes)
    return Kernel(compute, traced.lifted, preparation, operations=operations, peak=kept + running)


def _own_bytes(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> int:
    """Bytes of the memory of tensors, without that of others that they are views of."""
    memory = {t.untyped_storage()._cdata: bytes_of(t) for t in tensors}
    return sum(memory[s] for s in memory.keys() - {t.untyped_storage()._cdata for t in others})


def _lower(left: Tensor, right: Tensor, out: Tensor, start: int) -> None:
    """Rows of ``left @ right`` on and below the diagonal, in blocks, and their mirror image."""
    rows, n = left.shape[0], out.shape[0]
    blocks = _BLOCKS * rows // n if rows >= _TRIANGULAR else 1
    size = -(-rows // max(blocks, 1))
    for i in range(0, rows, size):
        a, b = start + i, start + min(i + size, rows)
        torch.mm(left[i : i + size], right[:, :b], out=out[a:b, :b])
        out[:a, a:b] = out[a:b, :a].t()


def _fed(
    fed: Sequence[tuple[int, bool] | None], inputs: Sequence[Tensor], start: int, rows: int, x: Tensor
) -> list[Tensor]:
    """Rows of what the identity multiplies, and of the identity itself where it is needed."""
    found = []
    for source in fed:
        if source is None:
            rows_of_identity = (
                torch.eye(x.numel(), dtype=x.dtype, device=x.device)[start : start + rows]
                if (rows == x.numel())
                else torch.zeros(rows, x.numel(), dtype=x.dtype, device=x.device)
            )
            if rows != x.numel():
                rows_of_identity.diagonal(start).fill_(1)
            found.append(rows_of_identity.view(rows, *x.shape))
        else:
            place, transposed = source
            matrix = inputs[place].t() if transposed else inputs[place]
            found.append(matrix[start : start + rows].contiguous())
    return found


def _rows(module: GraphModule, inputs: Sequence[Tensor], chunk: int, x: Tensor) -> _Rows:
    """A graph of ``chunk`` directions, made one of so many rows of the identity."""
    sources, needed = identity_rows(module, 0, chunk)
    fed: list[tuple[int, bool] | None] = [*sources, *([None] if needed else [])]
    graph = module.graph
    identity = placeholders(graph)[0]
    if needed:
        last = placeholders(graph)[-1]
        last.append(identity)
    else:
        graph.erase_node(identity)
    right = _take_last_product(module, inputs, chunk, x.numel())
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    return _Rows(module, fed, right)


def _take_last_product(module: GraphModule, inputs: Sequence[Tensor], rows: int, n: int) -> GraphModule | None:
    """Where rows are ``A @ B`` and B is a view of an input: have the graph return A, and return what gives B."""
    last = result(module.graph)
    while is_call(last, aten.view.default):
        last = last.args[0]  # type: ignore[assignment]
    if not is_call(last, aten.mm.default) or n < _TRIANGULAR or value(last).shape != (rows, n):
        return None
    left, right = last.args
    base: Any = right
    while is_call(base, aten.permute.default, aten.view.default):
        base = base.args[0]
    if base.op != "placeholder":
        return None
    graph = Graph()
    known: dict[Node, Node] = {}
    for node in placeholders(module.graph)[: len(inputs)]:
        known[node] = graph.node_copy(node, known.__getitem__)

    def take(node: Node) -> Node:
        if node not in known:
            for source in node.all_input_nodes:
                take(source)
            known[node] = graph.node_copy(node, known.__getitem__)
        return known[node]

    if base not in known:
        return None
    graph.output(take(right))  # type: ignore[arg-type]
    output(module.graph).args = (left,)
    return GraphModule(module, graph)

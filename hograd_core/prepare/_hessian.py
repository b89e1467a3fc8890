"""Hessians in two stages: a product with one direction is traced and cleaned, then made one with the whole identity.

Where a network multiplies x by a matrix, the product of the identity with that matrix is the matrix, so that no
identity is made. Where the last step is a product A B, it is computed in blocks on and below the diagonal, mirrored.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule

from hograd_core.prepare._batch import batched, identity_rows
from hograd_core.prepare._build import (
    Holds,
    Kernel,
    Outputs,
    Run,
    clean_trace,
    counted,
    finished,
    name_of,
    ready,
    traced_again,
    unconditional,
)
from hograd_core.prepare._table import table
from hograd_core.prepare._task import Task
from hograd_core.prepare.graphs._nodes import aten, is_call, output, placeholders, result, value
from hograd_core.prepare.graphs._passes import clean
from hograd_core.prepare.graphs._peak import bytes_of, peak_bytes
from hograd_core.prepare.graphs._record import record
from hograd_core.prepare.graphs._split import split
from hograd_core.prepare.graphs._trace import Traced
from hograd_core.prepare.inductor import _known
from hograd_core.prepare.inductor._key import Named

_TRIANGULAR = 256
"""Rows from which half of the last product is worth the calls of its blocks."""
_BLOCKS = 4
_VIEWS = {aten.permute.default: "permute", aten.view.default: "view"}


class _Plan(NamedTuple):
    """How rows are computed; JSON has it as it is.

    Attributes:
        chunk: rows at a time.
        fed: for each further input the place of the input whose rows it is, transposed or not; None: of an identity.
        right: where the graph gives the left factor of rows: the place of the input that the right one is, and its
            views; None: the graph gives rows.
        alone: whether one graph computes all.
    """

    chunk: int
    fed: list[tuple[int, bool] | None]
    right: tuple[int, list[tuple[str, list[int]]]] | None
    alone: bool


def _same(matrix: Tensor) -> Tensor:
    return matrix


def hessian(
    task: Task, tensors: Sequence[Tensor], preparation: str, then: Callable[[Tensor], Tensor] = _same
) -> Kernel:
    """The kernel of a Hessian, in chunks of rows where the task says so, and of what is then made of it."""
    x, *args = tensors
    product = [x, torch.ones_like(x), *args]
    named = name_of(task.product.kernel, product, preparation)
    named = None if named is None else named.of("hessian", task.chunk_size, task.memory)
    found = _known.find(named)
    if found is not None:
        told, (run, *first) = found.told, found.runs
        compute = _computing(_Plan(*told["plan"]), x, first[0] if first else None, run)
        kernel = Kernel(
            compute, found.lifted, preparation, [], Counter(told["operations"]), None, told["peak"], named, True
        )  # fmt: skip
        again = traced_again(task.product.kernel, found.lifted)
        return _finished(kernel, task, unconditional(again(product))[1] if told["conditional"] else None, then)
    traced = clean_trace(task.product.kernel, product, "compiled")
    graph, holds = unconditional(traced)
    traced = traced._replace(graph=graph)
    chunk = min(task.chunk_size or x.numel(), x.numel())
    while True:
        kernel = _of_rows(traced, tensors, preparation, chunk, named, holds is not None)
        if task.memory is None or kernel.peak <= task.memory:
            return _finished(kernel, task, holds, then)
        if chunk == 1:
            raise ValueError(
                f"memory: got {task.memory:,} bytes; row by row this Hessian still needs {kernel.peak:,}, its own "
                f"{x.numel() ** 2 * x.element_size():,} included"
            )
        chunk = (chunk + 1) // 2


def _finished(kernel: Kernel, task: Task, holds: Holds | None, then: Callable[[Tensor], Tensor]) -> Kernel:
    """The kernel of what is made of a Hessian, which goes the eager way where what its trace assumes does not hold."""
    matrix = kernel.run
    assert matrix is not None
    if then is not _same:
        kernel.run = lambda given: then(matrix(given))
    if holds is not None:
        kernel.try_first(lambda given: then(matrix(given)) if holds(given) else None, task.eager)
    return kernel


def _of_rows(
    traced: Traced, tensors: Sequence[Tensor], preparation: str, chunk: int, named: Named | None, conditional: bool
) -> Kernel:
    x, *args = tensors
    n, whole = x.numel(), chunk == x.numel()
    fixed = [x, *args, *traced.lifted]
    parts = split(traced.graph, [1])
    with torch.no_grad():
        residuals = list(parts.first(*fixed))
    inputs = [*fixed, *residuals]
    graph = batched(parts.second, [torch.ones_like(x), *inputs], 0, chunk)
    fed, right = _rows(graph, inputs, chunk, x)
    # One graph, so that the compiler sees all of it; but a right factor is an input of it.
    alone = whole and preparation == "compiled" and (right is None or right[0] < len(fixed))
    if alone:

        def joined(*given: Tensor) -> Any:
            own = [*given, *parts.first(*given)]
            return graph(*own, *_fed(fed, own, 0, n, x))

        first, module, given = None, clean(record(joined, fixed, table("compiled"))), fixed
    else:
        first = ready(parts.first, fixed, preparation) if residuals else None
        module, given = graph, [*inputs, *_fed(fed, inputs, 0, chunk, x)]
    finished(module, preparation)
    kept, running = _own_bytes(residuals, fixed), _own_bytes(given[len(inputs) :], inputs) + peak_bytes(module)
    left, out_bytes = bytes_of(value(result(module.graph))), n * n * x.element_size()
    if not whole:
        running += out_bytes
    elif right is not None:
        running = max(running, left + out_bytes)
    operations = counted(module)
    run = ready(module, given, preparation)
    plan, peak = _Plan(chunk, fed, right, alone), kept + running
    runs = [run] if first is None else [run, first]
    _known.keep(named, runs, traced.lifted, operations=operations, peak=peak, plan=plan, conditional=conditional)
    return Kernel(_computing(plan, x, first, run), traced.lifted, preparation, [], operations, None, peak, named)


def _computing(plan: _Plan, x: Tensor, first: Outputs | None, run: Outputs) -> Run:
    """What computes a Hessian with graphs that were made for x."""
    n, shape = x.numel(), x.shape
    new = functools.partial(torch.empty, n, n, dtype=x.dtype, device=x.device)
    chunk, fed, right, alone = plan
    whole = chunk == n

    def compute(given: list[Tensor]) -> Tensor:
        own = given if first is None else [*given, *first(given)]

        def rows(start: int) -> Tensor:
            return run(own if alone else [*own, *_fed(fed, own, start, chunk, given[0])])[0]

        if whole and right is None:
            return rows(0).view(shape * 2)
        out = None if whole else new()
        for start in (min(i, n - chunk) for i in range(0, n, chunk)):
            part = rows(start)
            out = new() if out is None else out
            if right is None:
                out[start : start + chunk] = part.view(chunk, n)
            else:
                _lower(part, _viewed(right, own), out, start)
            del part  # before the next one is made
        assert out is not None
        return out.view(shape * 2)

    return compute


def _viewed(views: tuple[int, list[tuple[str, list[int]]]], inputs: Sequence[Tensor]) -> Tensor:
    place, steps = views
    return functools.reduce(lambda t, step: getattr(t, step[0])(step[1]), steps, inputs[place])


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


def _rows(module: GraphModule, inputs: Sequence[Tensor], chunk: int, x: Tensor) -> tuple[Any, Any]:
    """Make a graph of ``chunk`` directions one of so many rows of the identity; what is fed, and the right factor."""
    sources, needed = identity_rows(module, 0, chunk)
    graph = module.graph
    identity = placeholders(graph)[0]
    if needed:
        last = placeholders(graph)[-1]
        last.append(identity)
    else:
        graph.erase_node(identity)
    right = _take_last_product(graph, len(inputs), chunk, x.numel())
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    return [*sources, *([None] if needed else [])], right


def _take_last_product(graph: Graph, inputs: int, rows: int, n: int) -> Any:
    """Where rows are ``A @ B`` and B is a view of an input: have the graph return A, and tell what B is."""
    last = result(graph)
    while is_call(last, aten.view.default):
        last = last.args[0]  # type: ignore[assignment]
    if not is_call(last, aten.mm.default) or n < _TRIANGULAR or value(last).shape != (rows, n):
        return None
    left, right = last.args
    base: Any = right
    steps: list[tuple[str, list[int]]] = []
    while is_call(base, *_VIEWS):
        steps.insert(0, (_VIEWS[base.target], list(base.args[1])))
        base = base.args[0]
    places = placeholders(graph)[:inputs]
    if base not in places:
        return None
    output(graph).args = (left,)
    return places.index(base), steps

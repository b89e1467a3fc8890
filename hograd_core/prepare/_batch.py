"""A graph of one direction as a graph of many, and many as the identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._python_dispatch import _disable_current_modes

from hograd_core.prepare._table import table
from hograd_core.prepare.graphs._nodes import aten, insert_input, is_call, placeholders, replace, value
from hograd_core.prepare.graphs._passes import clean
from hograd_core.prepare.graphs._record import record
from hograd_core.prepare.graphs._trace import CannotPrepareError

_COPIED = 64
"""Most rows of a graph with an operation that vmap has no rule for: it is in the graph once a row."""


def batched(module: GraphModule, inputs: Sequence[Tensor], place: int, rows: int) -> GraphModule:
    """The same function with ``rows`` values of one input along a new dimension 0, and so of its result.

    Operations are taken apart before they are vectorised: many backward formulas have no batching rule of their own,
    and vmap would run them one row at a time.

    Args:
        module: a clean graph.
        inputs: tensors such as it is called with.
        place: of the input that there are several of.
        rows: how many.

    Raises:
        CannotPrepareError: vmap has no rule for an operation, and the rows are too many for as many copies of it.
    """
    simpler = table("compiled")
    simple = record(module, inputs, simpler)
    clean(simple)
    several = [t.expand(rows, *t.shape).clone() if i == place else t for i, t in enumerate(inputs)]
    in_dims = tuple(0 if i == place else None for i in range(len(inputs)))
    with _by_rules(rows > _COPIED):
        return clean(record(torch.func.vmap(simple, in_dims=in_dims), several, {**simpler, aten.view.default: _view}))


def _view(t: Tensor, size: Sequence[int]) -> Any:
    """Of a copy where rows together lie otherwise in memory than each alone, which the graph has a view of."""
    if t.is_contiguous():
        return NotImplemented  # as it is
    try:
        with _disable_current_modes():
            torch.empty_strided(t.shape, t.stride(), device="meta").view(size)
    except RuntimeError:
        return aten.view(t.contiguous(), size)
    return NotImplemented


@contextmanager
def _by_rules(alone: bool) -> Iterator[None]:
    """Have vmap refuse, in this thread, what it would run one row at a time."""
    functorch: Any = torch._C._functorch
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(before and not alone)
    try:
        yield
    except RuntimeError as error:
        if not alone or "hit the vmap fallback" not in str(error):
            raise
        operation = str(error).split()[0]
        raise CannotPrepareError(f"vmap has no rule for {operation}, and would run more than {_COPIED} rows") from error
    finally:
        functorch._set_vmap_fallback_enabled(before)


def identity_rows(module: GraphModule, place: int, rows: int) -> tuple[list[tuple[int, bool]], bool]:
    """Have one input, of shape (rows, *shape of x), be rows of the identity: ``eye @ W`` is W, so rows of it are W's.

    For each product with an input W, or its transpose, a further input stands for the rows of W. (Where W holds
    infinities, an eager product gives NaN there.)

    Returns:
        Of each further input the place of W among the others and whether it is transposed; whether the rows of the
        identity are still needed.
    """
    graph = module.graph
    inputs = placeholders(graph)
    eye, others = inputs[place], [node for i, node in enumerate(inputs) if i != place]
    found: list[tuple[int, bool]] = []
    last = inputs[-1]
    for node in list(graph.nodes):
        if not is_call(node, aten.mm.default) or _unviewed(node.args[0]) is not eye:
            continue
        if value(node.args[0]).shape != (rows, value(eye).numel() // rows):
            continue
        matrix: Any = node.args[1]
        transposed = is_call(matrix, aten.permute.default)
        base = matrix.args[0] if transposed else matrix
        if base.op != "placeholder" or base is eye:
            continue
        last = insert_input(last, f"rows_{len(found)}")
        last.meta["val"] = value(node)
        found.append((others.index(base), transposed))
        replace(node, last)
    clean(module)
    return found, bool(eye.users)


def _unviewed(node: Any) -> Any:
    return node.args[0] if is_call(node, aten.view.default) else node

"""Hessians with few entries that are not zero: one graph computes the products of all colours of the pattern.

Pattern and colouring are found once (:mod:`hograd_core.sparse`), with the trace of f: what makes a new trace finds them
anew. Where a pattern rests on values (positions that are data, zeros of a matrix), each call takes one product more, of
a random vector, and goes the eager way where the pattern does not explain it.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import scalar_function
from hograd_core._differences import probe
from hograd_core._entrance import entered
from hograd_core.derivatives._autograd import leaf
from hograd_core.prepare import _hessian
from hograd_core.prepare._batch import batched
from hograd_core.prepare._build import Kernel, clean_trace, counted, finished, plain, ready, unconditional
from hograd_core.prepare._table import table
from hograd_core.prepare._task import Task
from hograd_core.prepare.graphs._passes import clean
from hograd_core.prepare.graphs._peak import peak_bytes
from hograd_core.prepare.graphs._record import record
from hograd_core.prepare.graphs._split import split
from hograd_core.sparse._colouring import Colouring
from hograd_core.sparse._recovery import compressed, fits, recovered, spread
from hograd_core.sparse.hessian import traced as pattern_of

_FRESH = 2**25
"""Bytes from which the allocator maps memory anew for each tensor, and gives it back to the system after it."""


def maker(task: Task, tensors: Sequence[Tensor]) -> Callable[[str], Kernel]:
    """What makes the kernel of a preparation."""
    if task.is_coloured:
        return functools.partial(coloured, task, tensors)
    if task.is_hessian:
        return functools.partial(_hessian.hessian, task, tensors)
    return functools.partial(plain, task.kernel, tensors, task.eager)


def coloured(task: Task, tensors: Sequence[Tensor], preparation: str) -> Kernel:
    """The kernel of a Hessian by colours of its pattern."""
    x, *args = tensors
    with entered():
        _, plan, fixed = pattern_of(scalar_function(task.function(tensors)), leaf(x))
    plan = plan.on(x.device)
    if plan.count == plan.n:  # as many products as columns
        return _every_column(task, plan, tensors, preparation)
    traced = clean_trace(task.product.kernel, [x, torch.ones_like(x), *args], "compiled")
    product, holds = unconditional(traced)
    seeds = (plan.colours == torch.arange(plan.count, device=x.device)[:, None]).to(x.dtype)
    v = probe(x, 0).reshape(1, -1)
    seeds = (seeds if fixed else torch.cat([seeds, v])).view(-1, *x.shape)
    given = [x, *args, *traced.lifted]
    parts = split(product, [1])
    with torch.no_grad():
        residuals = parts.first(*given)
    many = batched(parts.second, [torch.ones_like(x), *given, *residuals], 0, len(seeds))

    def products(seeds: Tensor, *given: Tensor) -> Any:
        return many(seeds, *given, *parts.first(*given)).view(-1, plan.n)

    own = record(products, [seeds, *given], table("compiled"))
    finished(clean(own), preparation)
    taken, kernel = plan.where.numel(), Kernel(None, traced.lifted, preparation, [], counted(own), None, 0)
    size = x.element_size()
    kernel.peak = max(peak_bytes(own), (len(seeds) * plan.n + taken) * size, taken * size + _bytes(task, plan, x))
    dense = not task.is_sparse
    large = dense and plan.n**2 * size >= _FRESH
    whole = fixed and preparation == "compiled" and not large

    def entries(read: Tensor, where: Tensor, *rest: Tensor) -> Any:
        # A stride realises the products: otherwise a compiler computes each anew where it is read.
        found = products(*rest).as_strided((len(seeds) * plan.n,), (1,)).index_select(0, read)
        return x.new_zeros(plan.n**2).scatter(0, where, found).view(x.shape * 2) if dense else found

    if whole:  # one graph, so that the compiler sees all of it
        constants = [plan.read, plan.where, seeds]
        own = record(entries, [*constants, *given], table("compiled"))
        finished(clean(own), preparation)
    else:
        constants = [seeds]
    run = ready(own, [*constants, *given], preparation)

    def compute(given: list[Tensor]) -> Tensor | None:
        if holds is not None and not holds(given):
            return None
        found = run([*constants, *given])[0]
        if not whole:
            every, found = found, recovered(plan, found)
            if not fixed and not fits(plan, found, v[0], every[-1]):
                return None
            del every  # before the matrix is made
            if large:
                return _zeros(plan.n**2, x).scatter_(0, plan.where, found).view(x.shape * 2)
            return spread(plan, found).view(x.shape * 2) if dense else compressed(plan, found)
        return found if dense else compressed(plan, found)

    kernel.try_first(compute, task.eager)
    return kernel


def _zeros(count: int, like: Tensor) -> Tensor:
    """Zeros, where the system can in huge pages: at this size all of it is fresh memory, which costs a fault a page."""
    if like.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return like.new_zeros(count)
    memory = mmap.mmap(-1, count * like.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=like.dtype)


def _every_column(task: Task, plan: Colouring, tensors: Sequence[Tensor], preparation: str) -> Kernel:
    """All entries by the kernel of a full Hessian; of a sparse one those of the pattern."""
    if not task.is_sparse:
        return _hessian.hessian(task, tensors, preparation)

    def entries(matrix: Tensor) -> Tensor:
        return compressed(plan, matrix.reshape(-1).index_select(0, plan.where))

    kernel = _hessian.hessian(task, tensors, preparation, entries)
    taken, size = plan.where.numel(), tensors[0].element_size()
    kernel.peak = max(kernel.peak, (plan.n**2 + taken) * size, taken * size + _bytes(task, plan, tensors[0]))
    return kernel


def _bytes(task: Task, plan: Colouring, x: Tensor) -> int:
    """Bytes that a result takes beyond its entries; all of it, where it is dense."""
    return (plan.where.numel() + plan.n + 1) * 8 if task.is_sparse else plan.n**2 * x.element_size()

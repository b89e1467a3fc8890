"""What depends on what, operation by operation. A rule takes a :class:`Call` and gives the sets of its results.

Rules give upper bounds. Sets and pairs live on the CPU, whatever the device of f.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hograd_core.arguments import _tree
from hograd_core.sparse._operations import (
    ALONG,
    ALONG_CURVED,
    CONSTANT,
    LINEAR,
    MATMUL,
    MOVING,
    POSITIONS,
    REDUCING,
    REDUCING_CURVED,
    Call,
    dims_of,
    name_of,
    on_numbers,
)  # fmt: skip
from hograd_core.sparse._sets import Sets, empty, numbers, stacked, united

Rule = Callable[[Call], Sets | list[Sets | None] | None]
aten = torch.ops.aten
_MOST_LINKS = 2**24
"""Nonzero entries of a constant matrix, times rows, up to which zeros of it are made use of."""


@functools.cache
def rule_of(func: Any) -> Rule | None:
    """The rule of an overload; None: there is none."""
    name = name_of(func)
    if func.namespace != "aten":
        return None
    if name in CONSTANT or (name == "div" and "rounding" in func._overloadname):
        return lambda call: empty_like(call)
    if name in MATMUL:
        return functools.partial(_product, before=MATMUL[name])
    if name in _ELSE:
        return _ELSE[name]
    for names, rule, curved in (
        (REDUCING, _reduced, False), (REDUCING_CURVED, _reduced, True),
        (ALONG, _along, False), (ALONG_CURVED, _along, True),
    ):  # fmt: skip
        if name in names and not (name in ("max", "min") and func._overloadname == "other"):
            return functools.partial(rule, curved=curved)
    if name in MOVING:
        return None if any(a.name == "reduce" for a in func._schema.arguments) else _moved
    if name in LINEAR or torch.Tag.pointwise in func.tags:
        return functools.partial(_elementwise, curved=name not in LINEAR and name not in ("max", "min"))
    return None


def results_of(call: Call) -> list[Tensor]:
    """The tensors that an operation gives."""
    return [t for t in _tree.leaves(call.out) if isinstance(t, Tensor)]


def empty_like(call: Call) -> list[Sets | None]:
    """Nothing depends on anything."""
    return [empty(t.numel(), call.trace.n) for t in results_of(call)]


def everything(call: Call) -> list[Sets | None]:
    """Of an operation that nothing is known of: each result depends on all that goes in, and all of it interacts."""
    trace = call.trace
    parts = [s.grouped(torch.zeros(s.m, dtype=torch.int64, device="cpu"), 1) for _, s in call.tracked()]
    whole = united(parts) if parts else empty(1, trace.n)
    trace.interact(whole, whole)
    return [whole.taken(torch.zeros(t.numel(), dtype=torch.int64, device="cpu")) for t in results_of(call)]


def _broadcast(call: Call, argument: Any) -> Sets | None:
    """What the elements of an argument depend on, broadcast to the result; None: a constant."""
    found = call.trace.sets_of(argument) if isinstance(argument, Tensor) else None
    return None if found is None else found.spread(argument.shape, results_of(call)[0].shape)


def _elementwise(call: Call, *, curved: bool) -> Sets | None:
    """Result i depends on elements i alone."""
    shape = results_of(call)[0].shape
    if any(t.shape != shape for t in results_of(call)):
        return None
    parts = [s.spread(t.shape, shape) for t, s in call.tracked()]
    whole = united(parts) if parts else empty(math.prod(shape), call.trace.n)
    if curved:
        call.trace.interact(whole, whole)
    return whole


def _multiplied(call: Call, factors: tuple[str, str] = ("self", "other"), *, divided: bool = False) -> Sets | None:
    """a b or a / b, plus what else there is: linear in each factor, but for the divisor."""
    a, b = (_broadcast(call, call.argument(name)) for name in factors)
    if a is not None and b is not None:
        call.trace.interact(a, b)
    if b is not None and divided:
        call.trace.interact(b, b)
    return _elementwise(call, curved=False)


def _powered(call: Call) -> Sets | None:
    exponent = call.argument("exponent")
    return _elementwise(call, curved=isinstance(exponent, Tensor) or exponent not in (0, 1))


def _groups(call: Call, curved: bool) -> tuple[Sets, list[int], list[int]]:
    """The sets along the axes taken together, the shape of a first argument, and that shape with these axes 1."""
    tracked = call.tracked()
    shape = max((list(t.shape) for t, _ in tracked), key=len)
    dims = dims_of(call, len(shape))
    kept = [1 if d in dims else size for d, size in enumerate(shape)]
    m = math.prod(kept)
    group = numbers(m).reshape(kept).expand(shape).reshape(-1)
    whole = united([s.spread(t.shape, shape).grouped(group, m) for t, s in tracked])
    if curved:
        call.trace.interact(whole, whole)
    return whole, shape, kept


def _reduced(call: Call, *, curved: bool) -> Sets:
    return _groups(call, curved)[0]


def _along(call: Call, *, curved: bool) -> Sets:
    """Every result depends on all that is along its axes."""
    whole, _, kept = _groups(call, curved)
    return whole.spread(kept, results_of(call)[0].shape)


def _moved(call: Call) -> list[Sets | None]:
    """Where each result comes from, by the operation itself on numbers of the elements; 0: a constant."""
    trace = call.trace
    parts: list[Sets] = [empty(1, trace.n)]

    def numbered(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        found = trace.sets_of(value)
        if found is None:
            return torch.zeros(value.shape, dtype=torch.int64, device="cpu")
        start = sum(p.m for p in parts)
        parts.append(found)
        return numbers(start, start + found.m).reshape(value.shape)

    scalars = {a.name for a in call.func._schema.arguments if str(a.type) in ("number", "Scalar")}
    if any(isinstance(t, Tensor) for name in POSITIONS for t in _tree.leaves(call.given.get(name))):
        call.looks()
    given = {
        name: _tree.mapped(lambda t: t.cpu() if isinstance(t, Tensor) else t, value)
        if name in POSITIONS
        else 0
        if name in scalars
        else _tree.mapped(numbered, value)
        for name, value in call.given.items()
    }
    if given.get("accumulate"):
        return [_accumulated(call, "indices", "values")]
    with torch.utils._python_dispatch._disable_current_modes():
        sources = on_numbers(call.func, given)
    every = stacked(parts)
    return [every.taken(s.reshape(-1).long()) for s in _tree.leaves(sources) if isinstance(s, Tensor)]


def _accumulated(call: Call, index: str, source: str) -> Sets:
    """What is there, and what is added to it at positions that are data."""
    call.looks()
    out = results_of(call)[0]
    target = numbers(out.numel()).reshape(out.shape)
    at = call.argument(index)
    src: Tensor = call.argument(source)
    if index == "indices":
        where = target[tuple(slice(None) if i is None else i.cpu() for i in at)]
        where = where.expand(torch.broadcast_shapes(where.shape, src.shape))  # type: ignore[no-untyped-call]
    else:
        dim = call.argument("dim") % max(out.dim(), 1)
        at = at.cpu()
        if call.func.overloadpacket.__name__.startswith("index_add"):
            where = target.index_select(dim, at)
        else:
            at = at[tuple(slice(size) for size in at.shape)]
            where = target.gather(dim, at)
            src = src[tuple(slice(size) for size in at.shape)]
    parts = [s for s in (_broadcast(call, call.argument("self")),) if s is not None]
    found = call.trace.sets_of(src)
    if found is not None:
        parts.append(found.spread(src.shape, where.shape).grouped(where.reshape(-1), out.numel()))
    return united(parts) if parts else empty(out.numel(), call.trace.n)


def _product(call: Call, *, before: int) -> Sets:
    """Products of matrices, of batches of them, and of vectors, plus what is added."""
    names = [a.name for a in call.func._schema.arguments]
    left, right = (call.argument(name) for name in names[before : before + 2])
    a = left.reshape(-1, *left.shape[-2:]) if left.dim() > 1 else left.reshape(1, 1, -1)
    b = right.reshape(-1, *right.shape[-2:]) if right.dim() > 1 else right.reshape(1, -1, 1)
    trace = call.trace
    deps = [trace.sets_of(t) for t in (left, right)]
    (batch, i, k), j = a.shape, b.shape[-1]
    rows_of = numbers(batch * i)  # of a, and of the result
    columns_of = numbers(batch)[:, None, None] * j + numbers(j)
    parts: list[Sets] = []
    if deps[0] is not None and deps[1] is not None:
        inner = numbers(batch * k).reshape(batch, 1, k).expand(batch, i, k).reshape(-1)
        trace.interact(
            deps[0].grouped(inner, batch * k),
            deps[1].grouped(numbers(batch * k)[:, None].expand(-1, j).reshape(-1), batch * k),
        )
    if deps[0] is not None:
        linked = None if deps[1] is not None else _linked(call, deps[0], a, b)
        if linked is None:
            whole = deps[0].grouped(rows_of[:, None].expand(-1, k).reshape(-1), batch * i)
            linked = whole.taken(rows_of[:, None].expand(-1, j).reshape(-1))
        parts.append(linked)
    if deps[1] is not None:
        linked = None
        if deps[0] is None:
            turned = deps[1].taken(numbers(batch * k * j).reshape(b.shape).mT.reshape(-1))
            linked = _linked(call, turned, b.mT, a.mT)
            if linked is not None:
                linked = linked.taken(numbers(batch * i * j).reshape(batch, j, i).mT.reshape(-1))
        if linked is None:
            whole = deps[1].grouped(columns_of.expand(batch, k, j).reshape(-1), batch * j)
            linked = whole.taken(columns_of.expand(batch, i, j).reshape(-1))
        parts.append(linked)
    if before:
        added = _broadcast(call, call.argument("self"))
        parts += [] if added is None else [added]
    return united(parts) if parts else empty(batch * i * j, trace.n)


def _linked(call: Call, found: Sets, a: Tensor, b: Tensor) -> Sets | None:
    """a b for a constant b that has zeros: (i, j) depends on those (i, k) of a for which b[k, j] is not zero."""
    if call.trace.blind:
        return None
    batch, rows, inner = a.shape
    number, k, j = (b != 0).cpu().nonzero(as_tuple=True)
    columns = b.shape[-1]
    if number.numel() == b.numel() or number.numel() * rows > _MOST_LINKS:
        return None
    call.looks()
    i = numbers(rows)[:, None]
    source = ((number * rows + i) * inner + k).reshape(-1)
    target = ((number * rows + i) * columns + j).reshape(-1)
    return found.taken(source).grouped(target, batch * rows * columns)


def _diagonal_of_sums(call: Call) -> Sets | None:
    """Losses of two tensors, elementwise, then summed or not."""
    parts = call.tracked()
    shape = torch.broadcast_shapes(*(t.shape for t in call.tensors()))  # type: ignore[no-untyped-call]
    each = united([s.spread(t.shape, shape) for t, s in parts])
    call.trace.interact(each, each)
    out = results_of(call)[0]
    return each if out.shape == shape else each.grouped(torch.zeros(each.m, dtype=torch.int64, device="cpu"), 1)


_ELSE: dict[str, Rule] = {
    "copy": lambda call: _broadcast(call, call.argument("src")) or empty_like(call),
    "mul": _multiplied,
    "div": functools.partial(_multiplied, divided=True),
    "addcmul": functools.partial(_multiplied, factors=("tensor1", "tensor2")),
    "addcdiv": functools.partial(_multiplied, factors=("tensor1", "tensor2"), divided=True),
    "pow": _powered,
    "index_add": lambda call: _accumulated(call, "index", "source"),
    "scatter_add": lambda call: _accumulated(call, "index", "src"),
    "mse_loss": _diagonal_of_sums,
    "smooth_l1_loss": _diagonal_of_sums,
    "huber_loss": _diagonal_of_sums,
    "binary_cross_entropy": _diagonal_of_sums,
}

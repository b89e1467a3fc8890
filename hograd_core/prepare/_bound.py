"""A product at one point, for many directions: what depends on the point alone is computed once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.optim.optimizer import register_optimizer_step_post_hook

from hograd_core import _entrance
from hograd_core.prepare._agreement import compared, nearby
from hograd_core.prepare._batch import batched
from hograd_core.prepare._build import NOT_NEAR, Kernel, Outputs, build, finished, ready, unconditional
from hograd_core.prepare._condition import Condition
from hograd_core.prepare._task import Task, ordinary
from hograd_core.prepare.graphs._nodes import duplicate, placeholders
from hograd_core.prepare.graphs._split import split
from hograd_core.prepare.graphs._trace import CannotPrepareError
from hograd_core.prepare.inductor import _compile, _known

if TYPE_CHECKING:
    from hograd_core.prepare._prepared import Entry, Prepared

_MOST_BATCHES = 8


class Halves:
    """The two halves of a kernel: x to residuals, directions and residuals to products; for a number of rows.

    Attributes:
        second: [v, *at(point)] -> product.
        named: what they compute, by which later processes find them.
        found: whether an earlier process made them.
    """

    def __init__(self, kernel: Kernel, tensors: Sequence[Tensor], rows: int | None) -> None:
        self.named = None if kernel.named is None else kernel.named.of("halves", rows)
        found = _known.find(self.named)
        assert kernel.trace is not None
        self.found = found is not None and list(map(id, found.lifted)) == list(map(id, kernel.lifted))
        if found is not None and self.found:
            self.second, *first = found.runs
            self._first: Outputs = first[0] if first else _nothing
            self._read: list[int] = found.told["read"]
            self._holds = unconditional(kernel.trace(tensors))[1] if found.told["conditional"] else None
            return
        x, v, *rest = [*tensors, *kernel.lifted]
        product, self._holds = unconditional(kernel.trace(tensors))
        parts = split(duplicate(product), [1])
        fixed = [x, *rest]
        with torch.no_grad():
            residuals = parts.first(*fixed)
        inputs = [v, *fixed, *residuals]
        second = parts.second
        if rows is not None:
            second = batched(second, inputs, 0, rows)
            inputs[0] = v.expand(rows, *v.shape).contiguous()
        second = finished(second, kernel.preparation)
        self._read = _read(second)
        if kernel.first is None:
            kernel.first = ready(parts.first, fixed, kernel.preparation) if residuals else _nothing
        self._first = kernel.first
        self.second = ready(second, [inputs[i] for i in self._read], kernel.preparation)
        _known.keep(
            self.named, [self.second, self._first][: 1 + bool(residuals)], kernel.lifted, read=self._read,
            conditional=self._holds is not None,
        )  # fmt: skip

    def at(self, fixed: list[Tensor]) -> list[Tensor]:
        """What the second half reads beside the directions, of [x, *args, *lifted].

        Raises:
            CannotPrepareError: what is assumed of values does not hold for these.
        """
        if self._holds is not None and not self._holds(fixed):
            raise CannotPrepareError(NOT_NEAR)
        every: list[Any] = [None, *fixed, *self._first(fixed)]
        return [every[i] for i in self._read[1:]]


class Bound:
    """v -> the product at the point that was bound; made by :meth:`Prepared.bind`.

    It refers to x and args: where they, or tensors of f, were updated, what depends on them is computed anew. An
    update is what PyTorch counts, or the step of an optimizer; of what is written through ``.data``, NumPy or another
    process there is no sign: bind again.
    """

    def __init__(self, prepared: Prepared, task: Task, x: Tensor, args: tuple[Tensor, ...]) -> None:
        self._prepared, self._task = prepared, task
        self._x, self._args = x, args
        self.bindings: dict[int | None, _Binding | None] = {}

    def __call__(self, v: Tensor, *, in_dims: int | None = None) -> Tensor:
        """The product with v, shaped like x; with ``in_dims=0`` with each of V along dimension 0, as many rows.

        Raises:
            RuntimeError: the prepared kernel was closed.
            TypeError, ValueError: v does not pair with x.
        """
        rows = None
        if in_dims is not None:
            rows = _rows(v, self._x, in_dims)
            if rows == 0:
                self._prepared.require_open()
                return torch.zeros_like(v)
        if not _entrance._STATE.evaluating:
            binding = self.bindings.get(rows)
            if binding is not None:
                result = binding.quickly(v)
                if result is not None:
                    return result
            if not _entrance.in_transform():
                binding = self._bound(v if rows is None else v[0], rows)
                if binding is not None:
                    with _entrance.entered():
                        return binding.run(ordinary(v))
        if rows is None:
            return self._prepared.of_tensors(self._x, v, args=self._args)
        return torch.stack([self._prepared.of_tensors(self._x, row, args=self._args) for row in v])

    def _bound(self, v: Tensor, rows: int | None) -> _Binding | None:
        """What runs for so many rows, with residuals of x as it is now; None: only the whole kernel does."""
        tensors, entry = self._prepared.entry_for([self._x, v], self._args)
        halves = self._prepared.halves(entry, tensors, rows)
        binding = None
        with suppress(CannotPrepareError):  # at this point
            binding = None if halves is None else _Binding(self, halves, entry, tensors, rows)
        if len(self.bindings) >= _MOST_BATCHES:
            self.bindings.clear()
        self.bindings[rows] = binding
        return binding


class _Binding:
    """Residuals of a point, and what they are of.

    Attributes:
        rest: what the second half reads beside the directions.
    """

    def __init__(self, bound: Bound, halves: Halves, entry: Entry, tensors: Sequence[Tensor], rows: int | None) -> None:
        x, v, *args = tensors
        self._open = bound._prepared.is_open
        self._holds, self._second = entry.state.still, halves.second
        watched = [bound._x, *bound._args, *entry.lifted]
        self._graded = any(t.requires_grad for t in watched)
        like = v if rows is None else v.new_empty(rows, *v.shape)
        # Nothing tells of an update of a tensor made in inference mode: then it is computed anew at every call.
        known = not any(t.is_inference() for t in watched)
        self._is_same = self._condition(like, watched) if known else lambda v: False
        with _entrance.entered(), torch.no_grad():
            self.rest = halves.at([x, *args, *entry.lifted])

    def _condition(self, like: Tensor, watched: Sequence[Tensor]) -> Callable[[Tensor], bool]:
        """Whether a call with v is like the one that residuals were computed for: kinds, versions, places in memory."""
        condition = Condition()
        name = condition.name
        with torch.no_grad():  # kinds too: .data may be swapped for a view of the same memory
            matches = _compile.tensor_guard([like, *watched])
        condition.require(f"{name(matches)}(v, {', '.join(map(name, watched))})")
        for t in watched:
            condition.require(f"{name(t)}._version == {name(t._version)}")
            condition.require(f"{name(t.data_ptr)}() == {name(t.data_ptr())}")
        condition.require(f"{name(_steps())}[0] == {_steps()[0]}")
        condition.require(f"{name(self._holds)}() and {name(self._open)}()")
        return condition.made("v")

    def run(self, v: Tensor) -> Tensor:
        """The product, with residuals that were just computed."""
        with torch.no_grad():
            return self._second([v, *self.rest])[0]

    def quickly(self, v: Tensor) -> Tensor | None:
        """The product; None where something is not as it was."""
        grad = self._graded and torch.is_grad_enabled()
        if grad:
            torch._C._set_grad_enabled(False)
        try:
            return self._second([v, *self.rest])[0] if self._is_same(v) else None
        except TypeError:  # of the condition: v is no tensor, which the operator says
            return None
        finally:
            if grad:
                torch._C._set_grad_enabled(True)


@functools.cache
def _steps() -> list[int]:
    """How many steps optimizers took since: a fused one does not count what it writes as an update of its tensors."""
    taken = [0]

    def count(*_: Any) -> None:
        taken[0] += 1

    register_optimizer_step_post_hook(count)
    return taken


def _nothing(_: list[Tensor]) -> Sequence[Tensor]:
    """Where nothing depends on x alone."""
    return ()


def _read(module: GraphModule) -> list[int]:
    """Drop inputs after the first that nothing reads, each of which costs a call its time; the places of the others."""
    inputs = placeholders(module.graph)
    for node in inputs[1:]:
        if not node.users:
            module.graph.erase_node(node)
    module.recompile()
    return [0, *(i for i, node in enumerate(inputs) if i and not node._erased)]


def _rows(v: Any, x: Tensor, in_dims: int) -> int:
    if in_dims != 0:
        raise ValueError(f"in_dims: got {in_dims!r}, expected None, or 0 for directions along dimension 0")
    if not isinstance(v, Tensor) or v.dim() != x.dim() + 1 or v.shape[1:] != x.shape:
        got = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
        raise ValueError(f"V: got {got}, expected directions along dimension 0: (rows, {', '.join(map(str, x.shape))})")
    return int(v.shape[0])


def halves_of(task: Task, kernel: Kernel, tensors: Sequence[Tensor], rows: int | None) -> Halves | None:
    """The halves of a kernel after they were held against the eager method; None where they cannot be had."""
    made: list[Halves] = []

    def make(_: str) -> Kernel:
        halves = Halves(kernel, tensors, rows)
        made.append(halves)

        def run(given: list[Tensor]) -> Tensor:
            x, v, *args = given
            return halves.second([v, *halves.at([x, *args, *kernel.lifted])])[0]

        return Kernel(run, named=halves.named, found=halves.found)

    x, v, *args = tensors
    several = v if rows is None else v.expand(rows, *v.shape)
    moved = nearby([x, several])

    def agrees(run: Callable[..., Tensor]) -> str | None:
        result = run(*moved, *args)
        picked = [None] if rows is None else list(dict.fromkeys((0, rows // 2, rows - 1)))
        for i in picked:
            at = moved if i is None else [moved[0], moved[1][i]]
            why = compared(task.eager, result if i is None else result[i], at, args)
            if why is not None:
                return why
        return None

    found = build(make, [kernel.preparation], agrees)
    return made[-1] if found.run is not None else None

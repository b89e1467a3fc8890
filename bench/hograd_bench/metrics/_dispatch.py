"""Counts every operator that reaches ATen's kernels during a call: beneath autograd, vmap and the other transforms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hograd_bench.metrics._flops import FREE, formula_of, is_view, work_of
from hograd_bench.metrics._formulas._work import Formula
from hograd_bench.metrics._modes import answered_by_subclass, run_beneath

_ALLOCATORS = ("aten::empty", "aten::new_empty", "aten::_efficientzerotensor", "aten::resize")
_WRITERS = ("aten::copy_", "aten::fill_", "aten::zero_", "aten::copy", "aten::fill", "aten::zero")
"""Operators that overwrite their first argument without reading it."""

_PICKERS = (
    "aten::index", "aten::index_select", "aten::gather", "aten::embedding", "aten::take", "aten::_unsafe_index",
    "aten::masked_select",
)  # fmt: skip
"""Operators that read as many elements of their first argument as they return."""

_METADATA = (
    "aten::_unsafe_view", "aten::_reshape_alias", "aten::lift_fresh", "aten::is_same_size",
    "aten::_has_same_storage_numel", "aten::_linalg_check_errors", "aten::set_", "aten::resolve_conj",
    "aten::resolve_neg",
)  # fmt: skip
"""Operators that touch no element (the resolvers, where there is nothing to resolve) yet are no views by schema."""


@dataclass
class Tally:
    """What a call dispatched.

    Attributes:
        by_op: operator -> number of dispatches.
        flops: floating-point operations, by the formulas of ``_flops``.
        accumulators: additions to a zero accumulator, included in flops.
        uncovered: operator -> dispatches that no formula covers.
        flops_by_op: operator -> its share of flops.
        moved_bytes: bytes that operators read and wrote, each at most once per operator; views are free.
        zero_tensors: tangents of forward mode that are known to be zero and take no memory.
    """

    by_op: Counter[str] = field(default_factory=Counter)
    flops: int = 0
    accumulators: int = 0
    uncovered: Counter[str] = field(default_factory=Counter)
    flops_by_op: Counter[str] = field(default_factory=Counter)
    moved_bytes: int = 0
    zero_tensors: int = 0

    @property
    def calls(self) -> int:
        """Number of dispatches."""
        return sum(self.by_op.values())

    @property
    def coverage(self) -> float:
        """Share of dispatches that a formula covers; 1 where there were none."""
        return 1.0 - sum(self.uncovered.values()) / self.calls if self.calls else 1.0


@dataclass(frozen=True)
class _Known:
    """What is the same for all dispatches of an operator."""

    name: str
    formula: Formula | None
    touches: bool
    picks: bool
    reads: tuple[bool, ...]
    reads_keyword: Mapping[str, bool]


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tally = Tally()
        self._known: dict[Any, _Known] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if answered_by_subclass(types):
            return NotImplemented
        keywords = kwargs or {}
        out = run_beneath(func, args, keywords)
        known = self._known.get(func)
        if known is None:
            known = self._known[func] = _learn(func)
        self._count(known, args, keywords, out)
        return out

    def _count(self, known: _Known, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
        tally = self.tally
        tally.by_op[known.name] += 1
        if known.name == "aten._efficientzerotensor":
            tally.zero_tensors += 1
        work = work_of(known.formula, args, kwargs, out) if known.formula is not None else None
        if work is None:
            tally.uncovered[known.name] += 1
        elif work is not FREE:
            tally.flops += work.flops
            tally.accumulators += work.accumulators
            tally.flops_by_op[known.name] += work.flops
        if known.touches:
            tally.moved_bytes += _moved(known, args, kwargs, out)


def _learn(func: Any) -> _Known:
    schema = func._schema
    reads = []
    keywords = {}
    for position, argument in enumerate(schema.arguments):
        written = argument.alias_info is not None and argument.alias_info.is_write
        overwritten = written and (argument.is_out or (position == 0 and schema.name in _WRITERS))
        if argument.kwarg_only:
            keywords[argument.name] = not overwritten
        else:
            reads.append(not overwritten)
    metadata = is_view(func) or schema.name in _METADATA or schema.name.startswith(_ALLOCATORS)
    name = str(func).removesuffix(".default")
    return _Known(name, formula_of(func), not metadata, schema.name in _PICKERS, tuple(reads), keywords)


def _moved(known: _Known, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    written = _bytes(out)
    read = sum(_bytes(a) for a, reads in zip(args, known.reads, strict=False) if reads)
    read += sum(_bytes(a) for name, a in kwargs.items() if known.reads_keyword.get(name, True))
    if known.picks:
        read += min(0, written - _bytes(args[0]))
    return read + written


def _bytes(value: Any) -> int:
    """Bytes of the distinct elements of all tensors in ``value``: a broadcast dimension is read once."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value._is_zerotensor():
            return 0
        if value.is_contiguous():
            return value.numel() * value.element_size()
        count = 1
        for size, stride in zip(value.shape, value.stride(), strict=True):
            count *= 1 if stride == 0 and size > 1 else size
        return min(count * value.element_size(), value.untyped_storage().nbytes())
    if isinstance(value, (tuple, list)):
        return sum(_bytes(item) for item in value)
    return 0


def count(call: Callable[[], Any]) -> Tally:
    """Run ``call`` once and count what it dispatches.

    Composite operators are counted by their parts, and a vmapped operator as the batched operator that runs.
    Products with forward mode's zero tangents are mostly not dispatched at all, which is as it runs; those that
    PyTorch expands (``zero_tensors`` says how many such tangents there were) are counted like any other.

    Args:
        call: takes nothing; its result is dropped.

    Returns:
        The tally. Cost: some 10 microseconds a dispatch.
    """
    counting = _Counting()
    with counting:
        call()
    return counting.tally

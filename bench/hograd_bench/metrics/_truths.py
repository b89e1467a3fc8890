"""The truths of a problem, one a point, which its methods share: the last few are kept."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hograd_bench.metrics._subject import Subject
    from hograd_bench.problems import Instance
    from hograd_core.reference import Truth

TRUTHS_KEPT = 16
TRUTH_BYTES_KEPT = 2**26
"""Methods of one problem share one truth, so the last few are kept while they are small."""

_truths: OrderedDict[tuple[Any, ...], list[Truth]] = OrderedDict()


def truths_of(subject: Subject, exact: Instance | None = None, where: str = "") -> list[Truth]:
    """The truth at every point of an instance: one, but for a batch."""
    from torch import Tensor
    from torch.utils._pytree import tree_leaves

    from hograd_bench.metrics._calls import repeatable
    from hograd_core import reference

    cell, key = subject.cell, key_of(subject, where)
    if key in _truths:
        _truths.move_to_end(key)
        return _truths[key]
    order = cell.order if subject.operator.takes_order else None

    def truths() -> list[Truth]:
        points = (exact or subject.precise()).each(subject.operator)
        return [reference.true_value(subject.operator.name, *arguments, order=order) for arguments in points]

    found: list[Truth] = repeatable(truths)()
    leaves = [leaf for leaf in tree_leaves([t.value for t in found]) if isinstance(leaf, Tensor)]
    if sum(leaf.numel() * 8 for leaf in leaves) <= TRUTH_BYTES_KEPT:
        _truths[key] = found
    while len(_truths) > TRUTHS_KEPT:
        _truths.popitem(last=False)
    return found


def key_of(subject: Subject, where: str) -> tuple[Any, ...]:
    """By which the truth of a subject's problem is remembered."""
    cell = subject.cell
    # dtype is in the key because truth is taken at the rounded point.
    return (subject.operator.name, cell.problem, cell.n, cell.order, cell.depth, cell.batch, cell.dtype, where)


def are_finite(truths: list[Truth]) -> bool:
    """Whether every entry of every one is."""
    import torch
    from torch.utils._pytree import tree_leaves

    leaves = [leaf for leaf in tree_leaves([t.value for t in truths]) if isinstance(leaf, torch.Tensor | float)]
    return all(bool(torch.as_tensor(leaf).isfinite().all()) for leaf in leaves)

"""Which sample the elements of a tensor belong to, and how values depend on earlier ones, operation by operation.

Labels count samples from 1; 0 is a constant. An operation without a rule, or one that takes elements of several samples
together other than by a sum, leaves its result without labels: *broken*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hograd_core.arguments import _tree
from hograd_core.curvature._tape import Step, Value
from hograd_core.sparse._operations import (
    ALONG,
    ALONG_CURVED,
    LINEAR,
    MOVING,
    REDUCING,
    REDUCING_CURVED,
    dims_of,
    on_numbers,
)
from hograd_core.sparse._sets import numbers

ELEMENTWISE, AFFINE, MIXED = range(3)
"""How a value depends on another: element by element; by a linear map of such values; in any other way."""

_SUMS = frozenset(["add", "sub", "rsub", "neg", "positive", "clone", "_to_copy", "alias", "lift_fresh_copy"])
_LOSSES = frozenset((
    "mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
    "soft_margin_loss",
))  # fmt: skip
"""Elementwise, then summed or not."""
_PICKED = frozenset(("nll_loss_forward", "nll_loss2d_forward"))
"""Linear in log-probabilities, then summed or not."""
_POOLS = frozenset((
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d",
))  # fmt: skip
"""Linear where they are smooth; samples lie along the first axis."""
_BY_SAMPLE = frozenset(["native_group_norm", "bmm", "baddbmm"])
_BY_STATISTICS = frozenset(["native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"])


class Link(NamedTuple):
    """How a value depends on a cut.

    Attributes:
        kind: ELEMENTWISE, AFFINE or MIXED.
        curved: whether second derivatives can differ from zero.
    """

    kind: int
    curved: bool


class Site(NamedTuple):
    """Where elements of x enter a cut linearly.

    Attributes:
        kind: "matrix", "kernel" (of a convolution), "scale" or "shift".
        places: which elements of x, in the shape of the weight as the operation takes it.
        factor: what they are multiplied by; None: nothing.
        scale: a number by which that is multiplied.
        step: the operation.
    """

    kind: str
    places: Tensor
    factor: Tensor | None
    scale: float
    step: Step


@dataclass(eq=False)
class Facts:
    """What is known of a value.

    Attributes:
        broken: it depends on a cut in an unknown way.
        places: which element of x each of its elements is; None: it is no part of x.
        labels: the sample that each of its elements belongs to.
        summed: it is a sum over samples.
        back: the cuts that it depends on directly.
        link: of a cut, what ``back`` was before it became one: the cuts before it. up: those and all before them.
        sites: of a cut, where x enters it.
        after: cuts that all ways to the result of f go through, in order.
        right: all that comes after it treats samples one by one.
    """

    broken: bool = False
    places: Tensor | None = None
    labels: Tensor | None = None
    summed: bool = False
    back: dict[Value, Link] = field(default_factory=dict)
    link: dict[Value, Link] | None = None
    up: frozenset[Value] = frozenset()
    sites: list[Site] = field(default_factory=list)
    after: tuple[Value, ...] = ()
    right: bool = False

    @property
    def of_samples(self) -> bool:
        """Whether it depends on a cut."""
        return self.broken or self.summed or self.labels is not None


Taken = Sequence[tuple[Tensor, Facts]]


def follow(step: Step, taken: Taken, given: Sequence[Facts]) -> None:
    """Note what an operation gives.

    Args:
        step: the operation.
        taken: its arguments that depend on cuts, each as often as it is given.
        given: what is known of its results, which is added to.
    """
    try:
        _follow(step, taken, given)
    except (RuntimeError, TypeError, ValueError, IndexError):  # shapes that a rule does not know
        for facts in given:
            facts.labels, facts.summed = None, False
    for facts in given:
        facts.broken = not (facts.summed or facts.labels is not None)


def _follow(step: Step, taken: Taken, given: Sequence[Facts]) -> None:
    call, name, func, out = step.call, step.name, step.call.func, step.given[0].tensor
    if any(f.broken for _, f in taken) or (func._schema.is_mutable and (name == "copy" or len(given) > 1)):
        return
    one = len(taken) == 1
    linear = name in _SUMS or (one and (name == "mul" or (name == "div" and call.argument("self") is taken[0][0])))
    moving = is_moving(step)
    if any(f.summed for _, f in taken):
        given[0].summed = all(f.summed for _, f in taken) and (linear or moving or name in ("sum", "mean"))
        given[0].back = links(taken, out, AFFINE, curved=False)
    elif is_pointwise(step):
        given[0].labels = _together(_labels(f).broadcast_to(out.shape) for _, f in taken)
        curved = not (linear or name in LINEAR)
        given[0].back = links(taken, out, ELEMENTWISE, curved=curved, linear=linear)
    elif moving:
        of = {id(t): _labels(f).contiguous() for t, f in taken}
        results = on_tensors(step, lambda t: of.get(id(t)))
        for value, facts, labels in zip(step.given, given, results, strict=True):
            facts.labels, facts.back = labels, links(taken, value.tensor, AFFINE, curved=False)
    elif name in _LOSSES:
        shape = torch.broadcast_shapes(*(t.shape for t in call.tensors()))  # type: ignore[no-untyped-call]
        together = _together(_labels(f).broadcast_to(shape) for _, f in taken)
        whole = call.argument("reduction") == 0
        given[0].labels, given[0].summed = (together, False) if whole else (None, together is not None)
        given[0].back = links(taken, out, AFFINE, curved=True, of_elements=True)
    elif name in _POOLS | _BY_SAMPLE or (name in _BY_STATISTICS and not call.argument("training")):
        rows = [_uniform(_labels(f), range(1, t.dim())) for t, f in taken]
        if all(r is not None for r in rows):
            together = _together(r.reshape(-1, *[1] * (out.dim() - 1)) for r in rows if r is not None)
            given[0].labels = None if together is None else together.broadcast_to(out.shape)
        given[0].back = links(taken, out, AFFINE if name in _POOLS else MIXED, curved=name not in _POOLS)
    elif one:
        _along(step, taken, given)


def _along(step: Step, taken: Taken, given: Sequence[Facts]) -> None:
    """Operations along axes, reductions among them."""
    call, name, out = step.call, step.name, step.given[0].tensor
    ((tensor, facts),) = taken
    labels, rank = _labels(facts), tensor.dim()
    sums = name in ("sum", "mean")
    if name in _PICKED:
        axes = [1 if rank > 1 else 0]
    elif name in REDUCING | REDUCING_CURVED | ALONG | ALONG_CURVED:
        axes = dims_of(call, rank)
    elif name == "native_layer_norm":
        axes = [*range(rank - len(call.argument("normalized_shape")), rank)]
    else:
        return
    uniform = _uniform(labels, axes)
    affine = sums or name in _PICKED
    back = links(taken, out, AFFINE if affine else MIXED, curved=not affine)
    summed = (sums and uniform is None) or (name in _PICKED and uniform is not None and call.argument("reduction") != 0)
    for value, each in zip(step.given, given, strict=True):
        if value.tensor.shape == out.shape:
            each.back, each.summed = back, summed
            if uniform is not None and not summed:
                kept = uniform if out.dim() == rank else uniform.reshape(out.shape)
                each.labels = kept.broadcast_to(out.shape)


def links(
    taken: Taken, out: Tensor, kind: int, *, curved: bool, linear: bool = False, of_elements: bool = False
) -> dict[Value, Link]:
    """How the result of an operation depends on cuts.

    Args:
        taken: its arguments that do.
        out: the result.
        kind: how it depends on them.
        curved: whether it does so nonlinearly.
        linear: of an elementwise one: no kinks either.
        of_elements: elementwise functions are summed within the operation.
    """
    found: dict[Value, list[Link]] = {}
    for tensor, facts in taken:
        for cut, link in facts.back.items():
            then = max(link.kind, kind)
            if kind == ELEMENTWISE and not linear and (link.kind == AFFINE or tensor.shape != out.shape):
                then = MIXED
            elif kind == ELEMENTWISE and tensor.shape != out.shape:
                then = max(then, AFFINE)
            elif of_elements and link.kind != ELEMENTWISE:
                then = MIXED
            found.setdefault(cut, []).append(Link(then, link.curved or curved))
    products = not linear and kind != AFFINE  # of two values, say
    result = {}
    for cut, several in found.items():
        most = max(link.kind for link in several)
        if len(several) > 1 and products:
            result[cut] = Link(ELEMENTWISE if most == ELEMENTWISE else MIXED, True)
        else:
            result[cut] = Link(most, any(link.curved for link in several))
    return result


def is_pointwise(step: Step) -> bool:
    """Whether an operation is elementwise."""
    return step.name in LINEAR or torch.Tag.pointwise in step.call.func.tags


def is_moving(step: Step) -> bool:
    """Whether elements go elsewhere, and nothing is computed."""
    func = step.call.func
    if step.name == "as_strided" or any(a.name == "reduce" for a in func._schema.arguments):
        return False
    return (step.name in MOVING or bool(func.is_view)) and not step.call.given.get("accumulate")


def on_tensors(step: Step, replaced: Callable[[Tensor], Tensor | None]) -> list[Tensor]:
    """An operation on whole numbers in place of its tensors; zero where ``replaced`` gives none."""

    def other(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        found = replaced(item)
        if found is not None:
            return found
        floating = item.dtype.is_floating_point
        return torch.zeros(item.shape, dtype=torch.int64, device="cpu") if floating else item.cpu()

    scalars = {a.name for a in step.call.func._schema.arguments if str(a.type) in ("number", "Scalar")}
    given = {
        name: 0 if name in scalars else _tree.mapped(other, value)
        for name, value in step.call.given.items()
        if name not in ("dtype", "device", "layout", "pin_memory")
    }
    return [t.long() for t in _tree.leaves(on_numbers(step.call.func, given)) if isinstance(t, Tensor)]


def a_row_each(labels: Tensor | None) -> bool:
    """Whether row i is of sample i."""
    if labels is None or labels.dim() == 0:
        return False
    rows = labels.reshape(labels.shape[0], -1)
    return bool((rows == numbers(1, len(rows) + 1)[:, None]).all())


def row_labels(shape: torch.Size) -> Tensor:
    """Labels by which row i is of sample i."""
    return numbers(1, shape[0] + 1).reshape(shape[0], *[1] * (len(shape) - 1)).broadcast_to(shape)


def _labels(facts: Facts) -> Tensor:
    if facts.labels is None:
        raise ValueError
    return facts.labels


def _together(every: Iterable[Tensor]) -> Tensor | None:
    """The labels of elements that are taken together one by one; None: they are of several samples."""
    first, *rest = every
    for labels in rest:
        if bool(((first != labels) & (first > 0) & (labels > 0)).any()):
            return None
        first = torch.maximum(first, labels)
    return first


def _uniform(labels: Tensor, axes: Sequence[int]) -> Tensor | None:
    """The labels along axes that are taken together, of size 1 there; None: they are of several samples."""
    if not axes:
        return labels
    most = labels.amax(tuple(axes), keepdim=True)
    least = torch.where(labels == 0, most, labels).amin(tuple(axes), keepdim=True)
    return most if bool((most == least).all()) else None

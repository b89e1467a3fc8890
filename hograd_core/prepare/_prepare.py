"""``prepare``: the entrance; points that are structures of tensors are laid end to end here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hograd_core import _entrance
from hograd_core.arguments import Arranged, Packing, leaves, mapped, point_of
from hograd_core.prepare._bound import Bound
from hograd_core.prepare._build import PREPARATIONS
from hograd_core.prepare._prepared import Prepared
from hograd_core.prepare._task import Task, task


class _StructuredBound(Bound):
    """A bound product whose point is a structure: laid end to end anew where a leaf was updated."""

    _prepared: Structured

    def __init__(self, prepared: Structured, task: Task, x: Any, args: tuple[Tensor, ...]) -> None:
        self._tree, self._then = x, _versions(leaves(x))
        super().__init__(prepared, task, prepared.packed.pack(x, "x"), args)

    def __call__(self, v: Any, *, in_dims: int | None = None) -> Any:
        packed, now = self._prepared.packed, _versions(leaves(self._tree))
        if now is None or now != self._then:
            self._x, self._then = packed.pack(self._tree, "x"), now
            self.bindings.clear()
        if in_dims is None:
            return self._prepared.cut(super().__call__(packed.pack(v, "v")))
        rows = {leaf.shape[:1] for leaf in leaves(v) if isinstance(leaf, Tensor)}
        if len(rows) != 1 or rows == {()}:
            raise ValueError("V: got leaves of several lengths, expected a direction a row, along dimension 0 of each")
        if rows != {(0,)}:
            packed.pack(mapped(lambda leaf: leaf[0], v), "V[0]")  # says what does not pair with x
        return self._prepared.cut(super().__call__(packed.joined(v, 1, 1), in_dims=in_dims), 1)


class Structured(Prepared):
    """An operator at points that are structures of tensors: a kernel of one flat tensor between laying and cutting.

    Args:
        packed: how a point lies in the flat tensor.
    """

    _bound = _StructuredBound

    def __init__(self, task: Task, preparation: str, check_every: int | None, packed: Packing) -> None:
        super().__init__(task, preparation, check_every)
        self.packed = packed

    def __call__(self, *given: Any, args: Sequence[Tensor] = ()) -> Any:
        """As of a tensor, x and v structures; the result is one, too, where its operator's is shaped like x."""
        flat = [self.packed.pack(tree, name) for tree, name in zip(given, ("x", "v"), strict=False)]
        return self.cut(super().__call__(*flat, *given[2:], args=args))

    def cut(self, flat: Tensor, leading: int = 0) -> Any:
        """A result over the elements of x laid end to end, in the structure of x; after some axes of directions."""
        made = Arranged({}, self.packed, False)
        return made.shaped(flat, self._task.operator.result, self._task.options.get("order"), leading)


def _versions(tensors: Sequence[Tensor]) -> list[Any] | None:
    """What changes with an update of tensors; None: nothing tells."""
    if _entrance.in_transform() or any(t.is_inference() for t in tensors):
        return None
    return [(t._version, t.data_ptr(), t.shape, t.stride()) for t in tensors]


def prepare(
    operator: Any,
    f: Any,
    x: Any,
    *more: Any,
    args: Sequence[Tensor] = (),
    preparation: str = "auto",
    check_every: int | None = None,
    **how: Any,
) -> Prepared:
    """Make an operator of f ready for many calls: traced once, cleaned, compiled, and compared with the eager method.

    Args:
        operator: of a function of x: ``hvp``, ``hessian``, ``gradient``, ``derivative_tensor``, ...
        f: ``(x, *args)`` -> a 0-dimensional tensor. Tensors that it refers to become inputs, other values are watched
            as far as they can be: module :mod:`._state` says which. Of an operator on models: the module; an update of
            its parameters in place is seen.
        x: the point, a tensor or a structure of tensors, of a real floating dtype, any device; calls may be at others.
            Of an operator on models: the loss.
        *more: of an operator on models, tensors that calls are like: inputs, targets, and directions.
        args: further arguments of f, tensors.
        preparation: "graph" (a cleaned graph, run op by op: ready at once), "compiled" (by inductor: seconds),
            "cudagraph" (the same, recorded on a GPU), "eager", or "auto": the quickest that there is.
        check_every: compare every so many calls with the eager method, where f may change in ways that are not seen.
        **how: ``method``, ``order``, ``repair`` and options, as the operator takes them.

    Returns:
        ``(x, *directions, args=...)`` -> the operator's result; of an operator on models ``(inputs, targets,
        *directions)``.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        UnsupportedError: PyTorch differentiates f wrongly by this method.
    """
    if preparation not in ("auto", *PREPARATIONS):
        raise ValueError(f"preparation: got {preparation!r}, expected one of auto, {', '.join(PREPARATIONS)}")
    if check_every is not None and (type(check_every) is not int or check_every < 1):
        raise ValueError(f"check_every: got {check_every!r}, expected an int >= 1, or None")
    if more:
        model = Prepared(task(operator, (f, x), how), preparation, check_every)
        model.entry_for(more, args)
        return model
    f, point, packed = point_of(f, x)
    of = task(operator, f, how)
    made = (
        Prepared(of, preparation, check_every) if packed is None else Structured(of, preparation, check_every, packed)
    )
    direction = torch.ones_like(point) if isinstance(point, Tensor) else point  # the operator says what it is not
    made.entry_for([point, *[direction] * of.directions], args)
    return made

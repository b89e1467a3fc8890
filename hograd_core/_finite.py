"""Results that are not finite although f and its gradient are: named, with the operator where they arise."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hograd_core._entrance import _STATE, in_transform, unguarded
from hograd_core.hazards import _graph

_REMEDY = "move x off the point where it is singular, or keep that point out of the graph with a double torch.where"


class NotFiniteWarning(RuntimeWarning):
    """A derivative is NaN or infinite although the function and its gradient are finite."""


_FEW = 64
"""Entries up to which looking at them one by one takes less time than a kernel's start."""


def is_finite(tensor: Tensor) -> bool:
    """Whether all entries are finite; one pass, which only an overflow of the sum makes two."""
    if tensor.numel() <= _FEW:
        try:
            entries: Any = (tensor if tensor.dim() < 2 else tensor.flatten()).tolist()
            if type(entries) is not list:
                return math.isfinite(entries)
            return math.isfinite(sum(entries)) or all(map(math.isfinite, entries))
        except RuntimeError:  # PyTorch's zero tensors, which stand for gradients that are zero, have no memory to read
            pass
    tensor = tensor.detach()
    return math.isfinite(tensor.sum().item()) or bool(tensor.isfinite().all())


def check_finite_result(
    where: str, result: Any, arguments: tuple[Any, ...], order: int | None, *, strict: bool
) -> None:
    """Warn, or raise, where a derivative of order 2 or more is not finite and what it derives from is.

    On the CPU and outside larger derivatives always; elsewhere, where looking costs a synchronisation or a trace,
    only if ``strict``.

    Args:
        where: operator and method.
        result: what the method returned; anything but a tensor is not looked at.
        arguments: of the method: f, x and perhaps v first.
        order: the derivative's order; None: no derivative of a scalar f, whose cause could be looked for.
        strict: raise instead of warn.

    Raises:
        FloatingPointError: with ``strict``.
    """
    if not isinstance(result, Tensor) or (not strict if order is None else order < 2):
        return
    if _STATE.kept and (not strict or in_transform()):
        return
    if not strict and not result.is_cpu:
        return
    if is_finite(result):
        return
    if order is None:
        raise FloatingPointError(f"{where}: its result is not finite; {_REMEDY}")
    f, x = arguments[:2]
    v = arguments[2] if len(arguments) > 2 else torch.ones_like(x)
    message = _diagnosis(where, f, x, v, order)
    if message is None:
        return
    if strict:
        raise FloatingPointError(message)
    warnings.warn(message, NotFiniteWarning, stacklevel=4)


def _diagnosis(where: str, f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, order: int) -> str | None:
    """What to say, or None where f or its gradient is not finite itself."""
    count = f"{where}: the derivative of order {order} is not finite, though f and its gradient are"
    try:
        with unguarded(), torch.autograd.set_detect_anomaly(True, check_nan=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            finite, name = _offender(f, x, v, order)
    except RuntimeError:
        return f"{count}; {_REMEDY}"
    if not finite:
        return None
    if name is None:
        return f"{count}; by double backward it is finite here, so use method='double_backward' or its kin"
    return f"{count}: it first appears at {name}; {_REMEDY}"


def _offender(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, order: int) -> tuple[bool, str | None]:
    """Whether f and its gradient are finite at x, and which operator of f first gives a non-finite derivative."""
    point = x.detach().requires_grad_()
    s = f(point)
    if not s.requires_grad or not is_finite(s.detach()):
        return is_finite(s.detach()), None
    for level in range(1, order):
        (g,) = torch.autograd.grad(s, point, create_graph=True)
        if not is_finite(g.detach()):
            # Of an order between the gradient and this one: that order's own sweep shows where.
            return (False, None) if level == 1 else (True, _name(s.grad_fn))
        s = (g * v).sum()
        if not s.requires_grad:
            return True, None
    seen: list[Any] = []

    def watch(node: Any) -> Callable[..., None]:
        def look(into: tuple[Tensor | None, ...], outof: tuple[Tensor | None, ...]) -> None:
            came = all(is_finite(t) for t in outof if t is not None)
            if not seen and came and not all(is_finite(t) for t in into if t is not None):
                seen.append(node)

        return look

    for node in _graph.nodes(_graph.recorded(s)):
        node.register_hook(watch(node))
    torch.autograd.grad(s, point)
    return True, _name(seen[0]) if seen else None


def _name(node: Any) -> str:
    """The operator of f that a node comes from: the node that recorded it, and so on, as torch names it."""
    while (parent := node.metadata.get("parent_")) is not None:
        node = parent
    name = re.sub(r"Backward\d*$", "", node.name())
    return f"{re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()} ({node.name()})"

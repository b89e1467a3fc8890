"""What f has recorded: the nodes of autograd's graph behind a result, whichever level of torch.func holds it.

The only place that unwraps tensors of torch.func; private names, tested with torch 2.11 to 2.14.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd.graph import get_gradient_edge

from hograd_core.arguments import _tree

LEAF: Any = type(get_gradient_edge(torch.zeros((), requires_grad=True)).node)
"""The type of the nodes that a graph ends in."""
is_wrapped: Callable[[Tensor], bool] = _functorch.is_functorch_wrapped_tensor
"""Whether a transform of torch.func holds a tensor."""
CUSTOM = "torch.autograd.Function"
"""What stands for the names that nodes of custom functions have."""


def custom_function(node: Any) -> type[torch.autograd.Function] | None:
    """The user's torch.autograd.Function that a node belongs to, also where torch.func made a class of it."""
    made = getattr(node, "_forward_cls", None)
    if made is None or issubclass(made, torch.autograd.Function):
        return made
    for member in vars(made).values():
        for cell in getattr(getattr(member, "__func__", member), "__closure__", None) or ():
            if isinstance(cell.cell_contents, type) and issubclass(cell.cell_contents, torch.autograd.Function):
                return cell.cell_contents
    return None


def levels(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor as each transform of torch.func under way sees it, the innermost first, and without any."""
    yield tensor
    while is_wrapped(tensor):
        tensor = _functorch.get_unwrapped(tensor)
        yield tensor


def recorded(result: Any) -> list[Any]:
    """The last node of the graph of every tensor in a result: one for each level that records a graph of it."""
    tensors = (result,) if isinstance(result, Tensor) else _tree.leaves(result)
    return [
        level.grad_fn
        for tensor in tensors
        if isinstance(tensor, Tensor)
        for level in levels(tensor)
        if level.grad_fn is not None
    ]


def hangs_on(recorded: Collection[Any], argument: Tensor) -> bool:
    """Whether a graph leads to a tensor, at any level."""
    at = [level for level in levels(argument) if level.requires_grad]
    if any(level.grad_fn in recorded for level in at if level.grad_fn is not None):
        return True
    return any(leaf is level for leaf in leaves(recorded) for level in at)


def leaves(recorded: Collection[Any]) -> list[Tensor]:
    """The leaves that a graph ends in."""
    return [node.variable for node in recorded if type(node) is LEAF]


def nodes(roots: list[Any], outside: Collection[Any] = ()) -> set[Any]:
    """Every node behind ``roots``, themselves included; those ``outside`` and what is behind them alone left out."""
    seen = {*roots, None, *outside}
    every = [*roots]
    for node in every:  # which grows meanwhile
        for before, _ in node.next_functions:
            if before not in seen:
                seen.add(before)
                every.append(before)
    return set(every)


def leads_to(root: Any, argument: Any, by: Collection[type]) -> bool | None:
    """Whether a graph leads to a leaf; None where one of its nodes is of another type than these, and no leaf.

    The guard asks this at every call on the tape, of a graph whose nodes nobody has seen yet, so that it is what the
    guard costs: nothing is gathered here that only a refusal needs.
    """
    if type(root) not in by:
        return None
    found = False
    seen = {root, None}
    ahead = [root]
    while ahead:
        for before, _ in ahead.pop().next_functions:
            if before not in seen:
                seen.add(before)
                kind = type(before)
                if kind is LEAF:
                    found = found or before.variable is argument
                elif kind in by:
                    ahead.append(before)
                else:
                    return None
    return found


def plain(tensor: Tensor) -> Tensor:
    """The value alone, of the first entry along each axis that vmap hides: no graph, no tangent, no level."""
    while is_wrapped(tensor):
        if _functorch.is_batchedtensor(tensor):
            axis = _functorch.maybe_get_bdim(tensor)
            tensor = _functorch.get_unwrapped(tensor).select(axis, 0)
        else:
            tensor = _functorch.get_unwrapped(tensor)
    return tensor.detach()


@contextlib.contextmanager
def outside_transforms() -> Iterator[None]:
    """Leave every transform of torch.func for the block."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    with temporarily_clear_interpreter_stack():
        yield


def traced(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
    """Arguments of the same values that require grad, and what ``function`` makes of them outside all transforms."""
    with outside_transforms():
        values = [plain(a) if isinstance(a, Tensor) else a for a in arguments]
        values = [a.requires_grad_() if isinstance(a, Tensor) and a.dtype.is_floating_point else a for a in values]
        with torch.enable_grad():
            return tuple(values), function(*values)

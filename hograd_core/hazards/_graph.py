"""What f has recorded: the nodes of autograd's graph behind a result, whichever level of torch.func holds it.

The only place that unwraps tensors of torch.func; private names, tested with torch 2.11 to 2.14.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from sys import getrefcount
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


def levels(tensor: Tensor) -> list[Tensor]:
    """A tensor as each transform of torch.func under way sees it, the innermost first, and without any."""
    found = [tensor]
    while is_wrapped(tensor):
        tensor = _functorch.get_unwrapped(tensor)
        found.append(tensor)
    return found


def recorded(result: Any) -> list[Any]:
    """The last node of the graph of every tensor in a result: one for each level that records a graph of it."""
    if type(result) is Tensor and not is_wrapped(result):  # mostly, and then this is quick
        last = result.grad_fn
        return [] if last is None else [last]
    found = []
    for tensor in (result,) if isinstance(result, Tensor) else _tree.leaves(result):
        if isinstance(tensor, Tensor):
            for level in levels(tensor):
                last = level.grad_fn
                if last is not None:
                    found.append(last)
    return found


def hangs_on(recorded: Collection[Any], argument: Tensor) -> bool:
    """Whether a graph, given by its nodes, leads to a tensor, at any level."""
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


def _unseen(root: Any) -> int:
    """References that are counted to the object of a node that nobody holds, in a loop like that of the walk."""
    for before, _ in root.next_functions:
        return getrefcount(before)
    raise AssertionError


_UNSEEN = _unseen(torch.zeros((), requires_grad=True).sin().cos().grad_fn)


_FEW = 24
"""Nodes among which one is found in less time than a set of them is made."""


def harmless(roots: list[Any], argument: Tensor | None, by: set[type]) -> bool:
    """Whether a graph holds no nodes but of these types, and, where it ends in leaves, hangs on the argument, if any.

    The guard asks this at every call that it does not remember, of a graph whose nodes nobody has seen yet, so that it
    is what the guard costs: nothing is gathered here that only a refusal needs. Between PyTorch's own work each object
    that is touched has to come from memory first, a set of nodes most of all. PyTorch makes the object of a node when
    it is asked for, and every node walked is held here: an object that nothing else refers to is new, and only others
    are looked up among those seen. Were references counted otherwise, more would be looked up, or walked twice.
    """
    every = [*roots]
    ends: list[Any] = []
    seen: set[Any] | None = None
    for node in every:  # which grows meanwhile
        for before, _ in node.next_functions:
            if type(before) is LEAF:
                ends.append(before)
            elif before is None:
                pass
            elif seen is not None:
                if before not in seen:
                    seen.add(before)
                    every.append(before)
            elif getrefcount(before) <= _UNSEEN or (len(every) < _FEW and before not in every):
                every.append(before)
            elif len(every) >= _FEW:
                seen = set(every)
                if before not in seen:
                    seen.add(before)
                    every.append(before)
    if not by.issuperset(map(type, every)):
        return False
    if argument is None or not ends:
        return True
    for end in reversed(ends):  # what f starts from is the farthest from its result, mostly
        if end.variable is argument:
            return True
    return hangs_on([*every, *ends], argument)


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

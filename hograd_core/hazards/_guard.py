"""The guard: looks through the graph that f has just recorded for operators that PyTorch differentiates wrongly.

Nothing is evaluated for it: every method but pure forward mode records a graph of f, on the tape or at a level of
torch.func, and walking it costs some tenths of a microsecond a node. Pure forward mode records none; there f is run
once more, on the tape. Nothing is remembered between calls, so that nothing can be out of date.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from hograd_core import _entrance
from hograd_core._unsupported import UnsupportedError
from hograd_core.hazards import _graph
from hograd_core.hazards._hazard import Hazard, nearest_tested
from hograd_core.hazards._modes import ConstantUnderNoGrad, Repairing
from hograd_core.hazards.table import HAZARDS, RIGHT, TESTED

Amount = tuple[str, int]
"""A method of the derivative operators and an order: what a kernel's result amounts to."""

_FORWARD_ONLY = frozenset({"nested_jvp"})


class Guard:
    """What one call of an operator must not meet, and what it does about it.

    Attributes:
        where: operator and method, for messages.
        amounts: the derivative methods and orders that the call amounts to.
        order: the highest order among them.

    Args:
        repair: whether f runs with exact substitutes in place of what PyTorch gets wrong.
        constant: whether values that f computes under no_grad must be kept from being differentiated (forward and
            Taylor mode go through them, reverse mode does not).
    """

    __slots__ = ("_around", "_dangers", "_forward_only", "_harmless", "_untraced", "amounts", "order", "where")

    def __init__(
        self, where: str, amounts: tuple[Amount, ...], *, repair: bool = False, constant: bool = False
    ) -> None:
        self.where = where
        self.amounts = amounts
        self.order, self._forward_only, self._dangers, self._harmless = _reckoned(amounts)
        self._untraced = self._forward_only
        self._around: tuple[Any, ...] = ()
        if repair or constant:
            self._around = (Repairing,) * repair + (ConstantUnderNoGrad,) * constant

    def around(self) -> AbstractContextManager[None] | None:
        """The modes that f runs in."""
        return None if not self._around else _entered(self._around)

    def inspect(self, function: Callable[..., Any], arguments: tuple[Any, ...], result: Any) -> None:
        """Look at what ``function`` recorded on its way from ``arguments`` to ``result``.

        Raises:
            UnsupportedError: it holds an operator whose derivative is wrong by this method.
            ValueError: the result does not depend on the arguments, but on other tensors that require grad.
        """
        if self._untraced:
            self._untraced = False
            with _entrance.unguarded(), self.around() or nullcontext():
                arguments, result = _graph.traced(function, arguments)
        elif self._forward_only:
            return
        roots = _graph.recorded(result)
        if not roots:
            return
        dangers, harmless, met, leaves = self._dangers, self._harmless, [], []
        custom = dangers.get(_graph.CUSTOM)
        recorded, notable = _graph.walked(roots, harmless)
        for node in notable:
            name = node.name()
            if name == _graph.LEAF:
                leaves.append(node.variable)
                continue
            found = dangers.get(name)
            if custom and hasattr(node, "_forward_cls"):
                found = custom
            if found:
                met += [h for h in found if h.when is None or h.when(node)]
            elif type(node).__name__ == name and not hasattr(node, "_forward_cls"):
                harmless.add(type(node))  # PyTorch's own nodes have a type each
        if met:
            raise UnsupportedError(self.where, _refusal(met, self.amounts))
        if leaves and not _entrance.kept():
            _refuse_ignored(arguments, result, recorded, leaves)


@contextmanager
def _entered(modes: tuple[Callable[[], AbstractContextManager[Any]], ...]) -> Iterator[None]:
    with ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode())
        yield


def _refuse_ignored(arguments: tuple[Any, ...], result: Any, recorded: Collection[Any], leaves: list[Tensor]) -> None:
    """Raise where a result hangs on other leaves only: its derivative would be silently zero."""
    if not (len(arguments) == 1 and type(result) is Tensor and isinstance(arguments[0], Tensor)):
        return
    (argument,) = arguments
    if any(leaf is argument for leaf in leaves) or _graph.hangs_on(recorded, argument):
        return
    shape = tuple(leaves[0].shape)
    raise ValueError(
        f"f: its result does not depend on its argument, but on a tensor of shape {shape} that requires grad, so that "
        "every derivative would be zero; compute with the argument (a module: hograd_core.from_module, or "
        "torch.func.functional_call), or detach that tensor"
    )


@functools.lru_cache(maxsize=256)
def _reckoned(amounts: tuple[Amount, ...]) -> tuple[int, bool, Mapping[str, tuple[Hazard, ...]], set[type]]:
    """The highest order, whether forward mode alone is among them, the dangers, and types of nodes found to be none."""
    forward = any(method in _FORWARD_ONLY for method, _ in amounts)
    return max(order for _, order in amounts), forward, _dangers(amounts), set()


def _dangers(amounts: tuple[Amount, ...]) -> Mapping[str, tuple[Hazard, ...]]:
    """Node name -> hazards of this torch version that concern any of the amounts."""
    version = nearest_tested(torch.__version__, TESTED)
    found: dict[str, tuple[Hazard, ...]] = {}
    for hazard in HAZARDS:
        if version in hazard.versions and any(hazard.concerns(*amount) for amount in amounts):
            for node in hazard.nodes:
                found[node] = (*found.get(node, ()), hazard)
    return found


def _refusal(met: list[Hazard], amounts: tuple[Amount, ...]) -> str:
    """What is wrong, and what to do, in one line."""
    hazards = list(dict.fromkeys(met))
    order = max(order for _, order in amounts)
    names = ", ".join(h.operator for h in hazards)
    faults = "; ".join(dict.fromkeys(h.fault for h in hazards))
    right = [m for m in RIGHT if not any(h.concerns(m, order) for h in hazards) and m not in dict(amounts)]
    remedies = ["repair=True (exact formulas in its place)"] if all(h.substitute for h in hazards) else []
    if right:
        remedies.append(f"a method that is right here at order {order} ({', '.join(right[:6])})")
    return (
        f"wrong derivative: torch {torch.__version__} differentiates {names} wrongly at order {order} by this method "
        f"({faults}; docs/atlas.md); use {' or '.join(remedies) or 'another formula for it'}"
    )


def guard(where: str, amounts: tuple[Amount, ...], *, constant: bool = False) -> Guard | None:
    """The guard of a call that amounts to these methods and orders; None where nothing is to be watched.

    Inside a larger derivative its order counts from there, and what is wrong by any method counts: modes mix.
    """
    if _entrance.unwatched() or not amounts:
        return None
    around = _entrance.enclosing()
    if around:
        amounts = (("*", around + max(order for _, order in amounts)),)
    return Guard(where, amounts, repair=_entrance.repairing(), constant=constant)


@contextmanager
def guarded(where: str, *amounts: Amount, constant: bool = False) -> Iterator[None]:
    """For public functions that are no operators: what the block computes amounts to these methods and orders."""
    with _entrance.entered():
        _entrance.watched_by(guard(where, amounts, constant=constant))
        yield


@contextmanager
def narrowed(*amounts: Amount) -> Iterator[None]:
    """Within a call that is watched already: the block amounts to these methods and orders, as its arguments show."""
    watch = _entrance.watching()
    if not isinstance(watch, Guard):
        yield
        return
    around = _entrance.enclosing()
    if around:
        amounts = (("*", around + max(order for _, order in amounts)),)
    repair, constant = Repairing in watch._around, ConstantUnderNoGrad in watch._around
    with _entrance.watched(Guard(watch.where, amounts, repair=repair, constant=constant)):
        yield


def ignored() -> _entrance.unguarded:
    """Run the block without the guard: results may be wrong. For measuring what PyTorch does, and nothing else."""
    return _entrance.unguarded()

"""The guard: looks through the graph that f has just recorded for operators that PyTorch differentiates wrongly.

Nothing is evaluated for it: every method but pure forward mode records a graph of f, on the tape or at a level of
torch.func, and walking it costs some tenths of a microsecond a node. Pure forward mode records none; there f is run
once more, on the tape. Where f runs twice for that, or in a mode of Python, it is remembered that nothing was wrong,
but only of functions that cannot do anything else the next time (_memory.py); on the tape alone to walk costs less.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hograd_core import _entrance
from hograd_core._unsupported import UnsupportedError
from hograd_core.hazards import _graph
from hograd_core.hazards._hazard import Hazard, nearest_tested
from hograd_core.hazards._memory import Observing, sketch
from hograd_core.hazards._modes import ConstantUnderNoGrad, Repairing
from hograd_core.hazards.table import HAZARDS, OWN, RIGHT, TESTED

Amount = tuple[str, int]
"""A method of the derivative operators and an order: what a kernel's result amounts to."""

_FORWARD_ONLY = frozenset({"nested_jvp"})
_MOST_KNOWN = 1024


class _Reckoned(NamedTuple):
    order: int
    forward_only: bool
    dangers: Mapping[str, tuple[Hazard, ...]]
    harmless: set[type]
    """Types of nodes that were found to be no danger."""
    known: dict[Hashable, bool]
    """What decides the operations of a function -> whether nothing is wrong with them, and nothing else decides."""


class Guard:
    """What one call of an operator must not meet, and what it does about it.

    Attributes:
        where: operator and method, for messages.
        amounts: the derivative methods and orders that the call amounts to.
        order: the highest order among them.
        always: what :meth:`look` would answer, where that is the same at every call.

    Args:
        repair: whether f runs with exact substitutes in place of what PyTorch gets wrong.
        constant: whether values that f computes under no_grad must be kept from being differentiated (forward and
            Taylor mode go through them, reverse mode does not).
        recorded: whether f runs on the tape as well, so that pure forward mode needs no further run of f.
    """

    __slots__ = (
        "_constant", "_dangers", "_forward_only", "_harmless", "_known", "_repair", "_untraced", "always", "amounts",
        "order", "where",
    )  # fmt: skip

    def __init__(
        self,
        where: str,
        amounts: tuple[Amount, ...],
        *,
        repair: bool = False,
        constant: bool = False,
        recorded: bool = False,
    ) -> None:
        self.where = where
        self.amounts = amounts
        self.order, forward_only, self._dangers, self._harmless, self._known = _reckoned(amounts)
        self._untraced = self._forward_only = forward_only and not recorded
        self._repair, self._constant = repair, constant
        looks_only = not (repair or constant or forward_only)
        self.always: _entrance.Looking | None = (None, self._walk) if looks_only else None

    @property
    def reusable(self) -> bool:
        """Whether one serves all calls: it notes nothing of them."""
        return not self._forward_only

    def look(self, function: Callable[..., Any], arguments: tuple[Any, ...], autocast: object) -> _entrance.Looking:
        """The modes that ``function`` runs in, and what looks at its result; neither where it is known to be harmless.

        Known is what had nothing wrong when it was looked through, and can only do the same again.
        """
        seen = None if self._repair else sketch(function, arguments)
        if seen is None:
            return self._modes(), self.inspect
        seen = seen, autocast, self._constant
        known = self._known.get(seen)
        if known:
            self._untraced = False
            return None, None
        if known is None:
            observing = Observing()
            return observing, functools.partial(self._learn, seen, observing)
        return self._modes(), self.inspect

    def _modes(self) -> AbstractContextManager[Any] | None:
        if self._repair and self._constant:
            return _both()
        return Repairing() if self._repair else ConstantUnderNoGrad() if self._constant else None

    def _learn(
        self,
        seen: Hashable,
        observing: Observing,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        result: Any,
    ) -> None:
        clear = self.inspect(function, arguments, result)
        if clear is None and observing.plain:
            return
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[seen] = bool(clear) and observing.plain

    def inspect(self, function: Callable[..., Any], arguments: tuple[Any, ...], result: Any) -> bool | None:
        """Look at what ``function`` recorded on its way from ``arguments`` to ``result``.

        Returns:
            Whether it holds no operator that could be wrong with other values; None where nothing was recorded.

        Raises:
            UnsupportedError: it holds an operator whose derivative is wrong by this method.
            ValueError: the result does not depend on the arguments, but on other tensors that require grad.
        """
        if self._untraced:
            self._untraced = False
            # On the tape what f computes under no_grad is a constant by itself.
            with _entrance.unguarded(), Repairing() if self._repair else nullcontext():
                arguments, result = _graph.traced(function, arguments)
        elif self._forward_only:
            return None
        return self._walk(function, arguments, result)

    def _walk(self, function: Callable[..., Any], arguments: tuple[Any, ...], result: Any) -> bool | None:
        """Look at what is recorded already; as :meth:`inspect`."""
        roots = _graph.recorded(result)
        if not roots:
            return None
        argument = arguments[0] if len(arguments) == 1 and type(result) is Tensor else None
        if not isinstance(argument, Tensor) or _entrance._STATE.kept:
            argument = None
        if _graph.harmless(roots, argument, self._harmless):
            return True  # mostly, and then this was quick
        nodes = _graph.nodes(roots)
        clear = self._names_are_harmless(nodes)
        leaves = [] if argument is None else _graph.leaves(nodes)
        if argument is not None and leaves and not _graph.hangs_on(nodes, argument):
            _refuse_ignored(leaves[0])
        return clear

    def _names_are_harmless(self, nodes: Collection[Any]) -> bool:
        """Look at the nodes whose types are not known to be harmless, and learn those that are.

        Returns:
            Whether none could be wrong with other values.

        Raises:
            UnsupportedError: one is wrong.
        """
        dangers, clear, met = self._dangers, True, []
        custom = dangers.get(_graph.CUSTOM)
        for node in nodes:
            if type(node) in self._harmless:
                continue
            name = node.name()
            found = dangers.get(name)
            if custom and hasattr(node, "_forward_cls"):
                found = custom
            if found:
                clear = False
                met += [h for h in found if h.when is None or h.when(node)]
            elif type(node).__name__ == name and not hasattr(node, "_forward_cls"):
                self._harmless.add(type(node))  # PyTorch's own nodes have a type each
        if met:
            raise UnsupportedError(self.where, _refusal(met, self.amounts))
        return clear


@contextmanager
def _both() -> Iterator[None]:
    with Repairing(), ConstantUnderNoGrad():
        yield


def _refuse_ignored(leaf: Tensor) -> None:
    """Raise where a result hangs on other leaves only: its derivative would be silently zero."""
    shape = tuple(leaf.shape)
    raise ValueError(
        f"f: its result does not depend on its argument, but on a tensor of shape {shape} that requires grad, so that "
        "every derivative would be zero; compute with the argument (a module: hograd_core.from_module, or "
        "torch.func.functional_call), or detach that tensor"
    )


@functools.lru_cache(maxsize=256)
def _reckoned(amounts: tuple[Amount, ...]) -> _Reckoned:
    """What follows from methods and orders, and what was learnt about them."""
    forward = any(method in _FORWARD_ONLY for method, _ in amounts)
    return _Reckoned(max(order for _, order in amounts), forward, _dangers(amounts), {_graph.LEAF}, {})


def _dangers(amounts: tuple[Amount, ...]) -> Mapping[str, tuple[Hazard, ...]]:
    """Node name -> hazards of this torch version that concern any of the amounts."""
    version = nearest_tested(torch.__version__, TESTED)
    found: dict[str, tuple[Hazard, ...]] = {}
    for hazard in (*HAZARDS, *OWN):
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


def guard(where: str, amounts: tuple[Amount, ...], *, constant: bool = False, recorded: bool = False) -> Guard | None:
    """The guard of a call that amounts to these methods and orders; None where nothing is to be watched.

    Inside a larger derivative its order counts from there, and what is wrong by any method counts: modes mix.
    """
    here = _entrance._STATE
    if here.unwatched or not amounts:
        return None
    if here.enclosing:
        amounts = (("*", here.enclosing + max(order for _, order in amounts)),)
    made = _made(where, amounts, repair=here.repairing, constant=constant, recorded=recorded)
    return made if made.reusable else Guard(where, amounts, repair=made._repair, constant=constant)


# One for all calls, but where a guard notes that it ran f already.
_made = functools.lru_cache(maxsize=1024)(Guard)


@contextmanager
def guarded(where: str, *amounts: Amount, constant: bool = False, recorded: bool = False) -> Iterator[None]:
    """For public functions that are no operators: what the block computes amounts to these methods and orders."""
    with _entrance.entered():
        _entrance.watched_by(guard(where, amounts, constant=constant, recorded=recorded))
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
    with _entrance.watched(Guard(watch.where, amounts, repair=watch._repair, constant=watch._constant)):
        yield


def ignored() -> _entrance.unguarded:
    """Run the block without the guard: results may be wrong. For measuring what PyTorch does, and nothing else."""
    return _entrance.unguarded()

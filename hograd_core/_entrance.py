"""The one entrance of every public function: the caller's modes are left at the door, and given back to his functions.

PyTorch keeps modes that change what an operation returns: inference mode, no_grad, autocast. The library's own algebra
runs outside all of them; what the caller wrote (f, a loss, a module) runs in the caller's autocast, with grad enabled.

    @entrance
    def public(f, x):          # inference mode, no_grad and autocast are off in here
        g = callback(f)        # calls f in the caller's autocast, marks that f is being evaluated, and has the guard
                               # of the call under way look at what f recorded (hograd_core.hazards)

A call from inside a callback or a ``torch.func`` transform is part of a larger derivative: :func:`kept` is true
there, and results must stay differentiable instead of being detached.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
Inspect = Callable[[Callable[..., Any], tuple[Any, ...], Any], object]
"""What looks at what a callback made of its arguments: (function, arguments, result)."""


Looking = tuple[contextlib.AbstractContextManager[Any] | None, Inspect | None]
"""The modes that a call of a callback runs in, if any, and what looks at its result, if anything has to."""


class Watch(Protocol):
    """What looks at every call of a callback while a public function runs.

    Attributes:
        order: how many derivatives the public function takes.
        always: what :meth:`look` would answer, where that is the same at every call.
    """

    order: int
    always: Looking | None

    def look(self, function: Callable[..., Any], arguments: tuple[Any, ...], autocast: object) -> Looking:
        """What this call of the callback runs in, and what looks at its result.

        The latter raises where what the callback recorded cannot be differentiated rightly.
        """


class _State(threading.local):
    """What holds in this thread.

    Attributes:
        autocast: the caller's, by device type.
        evaluating: callbacks under way.
        kept: whether results stay on the graph.
        inside: whether the library's own code runs, not a callback.
        watch: what looks at callbacks, set by the public function under way.
        enclosing: derivatives that are taken of the result of this call by those around it.
        unwatched: whether nothing is watched at all.
        repairing: whether guards of this call put exact substitutes in the place of what is wrong.
    """

    autocast: tuple[tuple[str, torch.dtype], ...] = ()
    evaluating: int = 0
    kept: bool = False
    inside: bool = False
    watch: Watch | None = None
    enclosing: int = 0
    unwatched: bool = False
    repairing: bool = False


_STATE = _State()
_DEVICE_TYPES = ("cpu", "cuda", "xpu", "mps")


def kept() -> bool:
    """Whether this call is part of a larger derivative, so that its result must stay differentiable."""
    return _STATE.kept


def enclosing() -> int:
    """How many derivatives the calls around this one take of its result."""
    return _STATE.enclosing


def watching() -> Watch | None:
    """What looks at the callbacks of the call under way."""
    return _STATE.watch


def unwatched() -> bool:
    """Whether the guard is off (:func:`hograd_core.hazards.ignored`)."""
    return _STATE.unwatched


def in_transform() -> bool:
    """Whether a torch.func transform is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _transforms() -> int:
    return len(torch._C._functorch.get_interpreter_stack() or ())


class entered:  # noqa: N801 (a context manager, used like a function)
    """The modes of the library, as a context manager; nests, and restores the caller's at the end."""

    __slots__ = ("_autocast", "_outer", "_plain")

    def __enter__(self) -> None:
        here = _STATE
        self._outer = (
            here.autocast, here.evaluating, here.kept, here.inside, here.watch, here.enclosing, here.repairing,
        )  # fmt: skip
        if not here.inside:
            here.kept = here.evaluating > 0 or in_transform()
            if here.kept:
                around = 0 if here.watch is None else here.watch.order
                here.enclosing = max(here.enclosing + around, _transforms(), 1)
            here.watch, here.repairing = None, False
        here.evaluating, here.inside = 0, True
        # inference_mode(False) leaves no_grad as well: grad and forward AD are enabled. Where they are, the call is
        # saved, which each product of an iteration would make.
        plain = torch.is_grad_enabled() and torch._C._is_fwd_grad_enabled() and not torch.is_inference_mode_enabled()
        self._plain = None if plain else torch.inference_mode(False)
        if self._plain is not None:
            self._plain.__enter__()
        self._autocast: contextlib.ExitStack | None = None
        if torch._C._is_any_autocast_enabled():
            on = [device for device in _DEVICE_TYPES if torch.is_autocast_enabled(device)]
            _STATE.autocast = tuple((device, torch.get_autocast_dtype(device)) for device in on)
            self._autocast = contextlib.ExitStack()
            for device in on:
                self._autocast.enter_context(torch.autocast(device, enabled=False))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._autocast is not None:
            self._autocast.close()
        if self._plain is not None:
            self._plain.__exit__(kind, error, trace)
        here = _STATE
        (
            here.autocast, here.evaluating, here.kept, here.inside, here.watch, here.enclosing, here.repairing,
        ) = self._outer  # fmt: skip


def entrance(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function (or method) so that its body runs in the library's modes."""

    @functools.wraps(function)
    def through(*args: P.args, **kwargs: P.kwargs) -> R:
        with entered():
            return function(*args, **kwargs)

    return through


def callback(function: Callable[P, R]) -> Callable[P, R]:
    """What the caller wrote, to be called from inside: in the caller's autocast, with grad enabled, and watched."""
    autocast = _STATE.autocast

    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        here = _STATE
        inside, watch = here.inside, here.watch
        if watch is None or kwargs:
            around = inspect = None
        else:
            around, inspect = watch.always or watch.look(function, args, autocast)
        here.inside = False
        here.evaluating += 1
        try:
            if not autocast and torch.is_grad_enabled():
                if around is None:
                    result = function(*args, **kwargs)
                else:
                    with around:
                        result = function(*args, **kwargs)
            else:
                with contextlib.ExitStack() as stack:
                    # Formulas of PyTorch that look at the grad mode choose a first-order shortcut without it.
                    stack.enter_context(torch.enable_grad())
                    if around is not None:
                        stack.enter_context(around)
                    for device, dtype in autocast:
                        stack.enter_context(torch.autocast(device, dtype=dtype))
                    result = function(*args, **kwargs)
        finally:
            here.evaluating -= 1
            here.inside = inside
        if inspect is not None:
            inspect(function, args, result)
        return result

    return called


def repair() -> None:
    """Have every guard of the public function under way repair instead of refusing."""
    _STATE.repairing = True


def keep(graph: bool = True) -> None:
    """Have the public function under way leave its result on the graph, to be differentiated again; or no longer."""
    _STATE.kept = graph
    if graph:
        _STATE.enclosing = max(_STATE.enclosing, 1)


def watched_by(watch: Watch | None) -> None:
    """Have ``watch`` look at callbacks until the public function under way ends; None: leave things as they are."""
    if watch is not None:
        _STATE.watch = watch


class watched:  # noqa: N801 (a context manager, used like a function)
    """Have ``watch`` look at every callback of the block; None: leave things as they are."""

    __slots__ = ("_outer", "_watch")

    def __init__(self, watch: Watch | None) -> None:
        self._watch = watch

    def __enter__(self) -> None:
        self._outer = _STATE.watch
        watched_by(self._watch)

    def __exit__(self, *_: object) -> None:
        _STATE.watch = self._outer


class unguarded:  # noqa: N801 (a context manager, used like a function)
    """Watch nothing in the block."""

    __slots__ = ("_outer",)

    def __enter__(self) -> None:
        self._outer = (_STATE.watch, _STATE.unwatched)
        _STATE.watch, _STATE.unwatched = None, True

    def __exit__(self, *_: object) -> None:
        _STATE.watch, _STATE.unwatched = self._outer


def released(result: Any) -> Any:
    """A result as the caller gets it: detached, unless it is part of a larger derivative (:func:`kept`)."""
    whole = _STATE.kept or not isinstance(result, torch.Tensor) or not result.requires_grad
    return result if whole else result.detach()


def in_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """A linear map that the caller wrote (a product with a matrix, say), in the caller's autocast.

    Unlike :func:`callback` it is no function that is differentiated: operators called within it give plain results.
    """
    autocast = _STATE.autocast

    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with contextlib.ExitStack() as stack:
            for device, dtype in autocast:
                stack.enter_context(torch.autocast(device, dtype=dtype))
            return function(*args, **kwargs)

    return called if autocast else function

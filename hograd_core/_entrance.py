"""The one entrance of every public function: the caller's modes are left at the door, and given back to his functions.

PyTorch keeps modes that change what an operation returns: inference mode, no_grad, autocast. The library's own algebra
runs outside all of them; what the caller wrote (f, a loss, a module) runs in the caller's autocast, with grad enabled.

    @entrance
    def public(f, x):          # inference mode, no_grad and autocast are off in here
        g = callback(f)        # calls f in the caller's autocast, and marks that f is being evaluated

A call from inside a callback or a ``torch.func`` transform is part of a larger derivative: :func:`kept` is true
there, and results must stay differentiable instead of being detached.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class _State(threading.local):
    """What holds in this thread: the caller's autocast, the callbacks under way, whether results stay on the graph."""

    autocast: tuple[tuple[str, torch.dtype], ...] = ()
    evaluating: int = 0
    kept: bool = False
    inside: bool = False


_STATE = _State()
_DEVICE_TYPES = ("cpu", "cuda", "xpu", "mps")


def kept() -> bool:
    """Whether this call is part of a larger derivative, so that its result must stay differentiable."""
    return _STATE.kept


def in_transform() -> bool:
    """Whether a torch.func transform is under way."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class entered:  # noqa: N801 (a context manager, used like a function)
    """The modes of the library, as a context manager; nests, and restores the caller's at the end."""

    __slots__ = ("_autocast", "_outer", "_plain")

    def __enter__(self) -> None:
        self._outer = (_STATE.autocast, _STATE.evaluating, _STATE.kept, _STATE.inside)
        if not _STATE.inside:
            _STATE.kept = _STATE.evaluating > 0 or in_transform()
        _STATE.evaluating, _STATE.inside = 0, True
        # inference_mode(False) leaves no_grad as well: grad and forward AD are enabled.
        self._plain = torch.inference_mode(False)
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
        self._plain.__exit__(kind, error, trace)
        _STATE.autocast, _STATE.evaluating, _STATE.kept, _STATE.inside = self._outer


def entrance(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function (or method) so that its body runs in the library's modes."""

    @functools.wraps(function)
    def through(*args: P.args, **kwargs: P.kwargs) -> R:
        with entered():
            return function(*args, **kwargs)

    return through


def callback(function: Callable[P, R]) -> Callable[P, R]:
    """What the caller wrote, to be called from inside: in the caller's autocast, with grad enabled."""
    autocast = _STATE.autocast

    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        inside, _STATE.inside = _STATE.inside, False
        _STATE.evaluating += 1
        try:
            if not autocast:
                return function(*args, **kwargs)
            with contextlib.ExitStack() as stack:
                for device, dtype in autocast:
                    stack.enter_context(torch.autocast(device, dtype=dtype))
                return function(*args, **kwargs)
        finally:
            _STATE.evaluating -= 1
            _STATE.inside = inside

    return called


def released(result: Any) -> Any:
    """A result as the caller gets it: detached, unless it is part of a larger derivative (:func:`kept`)."""
    return result if _STATE.kept or not isinstance(result, torch.Tensor) else result.detach()


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

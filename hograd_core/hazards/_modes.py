"""Modes that f runs in: exact substitutes for wrong operators of PyTorch; no_grad that means the same everywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hograd_core.arguments import _tree
from hograd_core.hazards._substitutes import SUBSTITUTES


class Repairing(TorchFunctionMode):
    """Calls of an operator that has an exact substitute go to that."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer one call of torch's public functions."""
        substitute: Callable[..., Any] | None = SUBSTITUTES.get(func)
        return (func if substitute is None else substitute)(*args, **(kwargs or {}))


class ConstantUnderNoGrad(TorchFunctionMode):
    """What is computed under no_grad is a constant, in forward and Taylor mode as it is on the tape."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer one call of torch's public functions."""
        if torch.is_grad_enabled() or func is Tensor.detach or in_custom_function():
            return func(*args, **kwargs) if kwargs else func(*args)
        args, kwargs = _tree.detached((tuple(args), kwargs or {}))
        return func(*args, **kwargs)


_FUNCTION = os.path.join("torch", "autograd", "function.py")
_ENTRANCE = os.path.join("hograd_core", "_entrance.py")
_UNSEEN = not isinstance(torch.autograd.Function.__dict__["apply"], classmethod)
"""Since torch 2.14 apply is in C: of a call a stack shows nothing but what the class itself has for a forward."""
_KNOWN: dict[int, tuple[CodeType, bool]] = {}
"""Code, by its identity, and whether it is a forward: to hash code costs as much as all it holds."""
_MOST_KNOWN = 4096
_DEEPEST = 16


def in_custom_function() -> bool:
    """Whether a torch.autograd.Function runs its forward, which PyTorch does with grad off."""
    frame: Any = sys._getframe(2)
    around = []
    while frame is not None:
        code = frame.f_code
        if code.co_filename.endswith(_FUNCTION):
            return True
        if code.co_filename.endswith(_ENTRANCE):
            break
        around.append(code)
        frame = frame.f_back
    return _UNSEEN and any(_are_forwards(around))


def _are_forwards(codes: Sequence[CodeType]) -> list[bool]:
    """Of code that runs, which is the forward of a custom function; all of these are looked through for new code."""
    try:
        return [_KNOWN[id(code)][1] for code in codes]
    except KeyError:
        pass
    forwards, left = set(), [torch.autograd.Function]
    while left:
        function = left.pop()
        left += type.__subclasses__(function)
        forwards |= {id(_innermost(getattr(function, name, None))) for name in ("forward", "setup_context")}
    found = [id(code) in forwards for code in codes]
    if len(_KNOWN) >= _MOST_KNOWN:
        _KNOWN.clear()
    _KNOWN.update((id(code), (code, one)) for code, one in zip(codes, found, strict=True))
    return found


def _innermost(function: Any) -> CodeType | None:
    """The code within decorators, partials and methods; theirs may be around other functions too."""
    for _ in range(_DEEPEST):
        inner = (getattr(function, name, None) for name in ("__wrapped__", "__func__", "func"))
        function, last = next((each for each in inner if each is not None), None), function
        if function is None:
            return getattr(last, "__code__", None) or getattr(vars(type(last)).get("__call__"), "__code__", None)
    return None

"""Modes that f runs in: exact substitutes for wrong operators of PyTorch; no_grad that means the same everywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
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


def in_custom_function() -> bool:
    """Whether a torch.autograd.Function runs its forward, which PyTorch does with grad off."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.endswith(_FUNCTION):
            return True
        if frame.f_code.co_filename.endswith(_ENTRANCE):
            return False
        frame = frame.f_back
    return False

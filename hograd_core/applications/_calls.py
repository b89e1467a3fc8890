"""How applications call what the caller wrote, and hand back results that keep their graph."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

from hograd_core._entrance import callback, entrance, unguarded

P = ParamSpec("P")


def _apply(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def watched_call(function: Callable[..., Any]) -> Callable[..., Any]:
    """A field or critic, called in the caller's autocast and looked at by the guard of the call under way.

    Its result may hang on its parameters alone: points that carry no graph are constants of a parameter gradient.
    """
    return functools.partial(callback(_apply), function)


def plain_call(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What the caller wrote around derivatives (a penalty, a residual): in his autocast, differentiated once."""
    call = callback(function)

    def unwatched(*arguments: Any) -> Tensor:
        with unguarded():
            return call(*arguments)

    return unwatched


def recording(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The entrance of functions whose result keeps its graph: detached only where the caller records none."""
    inner = entrance(function)

    @functools.wraps(function)
    def through(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        recorded = torch.is_grad_enabled()
        result = inner(*args, **kwargs)
        return result if recorded else result.detach()

    return through

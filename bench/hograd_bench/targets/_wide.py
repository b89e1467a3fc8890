"""A function that was written for float32, evaluated in float64: what truth is computed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

_LOW = (torch.float32, torch.float16, torch.bfloat16)
_NARROWING = (Tensor.float, Tensor.half, Tensor.bfloat16)
_DTYPE = Tensor.dtype.__get__  # type: ignore[attr-defined]
_ABOUT = ("__get__", "__set__", "__delete__", "grad", "backward", "register_hook", "retain_grad")
"""Of tensors themselves, not of their values: a widened one would be another, of which no graph knows."""
_IN_PLACE = ("__setitem__", "copy_", "fill_")


def wide(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """f in float64 on the CPU, whatever dtype and device its own constants, weights and casts have.

    Every tensor of f's that an operation meets is taken in float64, exactly as it is; factories make float64, and casts
    to a narrower dtype are none. What f writes in place into a narrower tensor of its own is rounded there.
    """

    def evaluated(x: Tensor) -> Tensor:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            with _Wide():
                return f(x)
        finally:
            torch.set_default_dtype(before)

    return evaluated


class _Wide(TorchFunctionMode):
    """Widens what operations are given."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == _DTYPE:  # layers compare the dtypes of input and weights
            return _widened(func(*args))
        if name in _ABOUT:
            return func(*args, **named)
        if func in _NARROWING:
            return args[0].double()
        kept: tuple[Any, ...] = ()
        if name in _IN_PLACE or (name.endswith("_") and not name.endswith("__")):
            kept, args = args[:1], args[1:]
        out = {key: named.pop(key) for key in ("out",) if key in named}
        return func(*kept, *tree_map(_widened, args), **tree_map(_widened, named), **out)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.dtype in _LOW or value.device.type == "cuda":
            return value.to("cpu", torch.float64 if value.dtype in _LOW else value.dtype)
        return value
    if isinstance(value, torch.dtype):
        return torch.float64 if value in _LOW else value
    return torch.device("cpu") if isinstance(value, torch.device) else value

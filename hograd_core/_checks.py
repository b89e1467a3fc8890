"""Argument guards. Every message names the argument, what it got, what was expected and the remedy."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from types import FunctionType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from hograd_core._entrance import callback, kept
from hograd_core.arguments import Budget, WeightedSum

ScalarFunction = Callable[[Tensor], Tensor]
"""What methods differentiate."""
T = TypeVar("T")
"""A point, directions and what else has its shape: a tensor, or a structure of tensors."""
_T_contra = TypeVar("_T_contra", contravariant=True)
_OF = "_hograd_of"


class Function(Protocol[_T_contra]):
    """What callers have differentiated: a function of a point, and of further arguments, to a 0-dimensional tensor."""

    def __call__(self, x: _T_contra, /, *args: Any, **kwargs: Any) -> Tensor: ...


def check_point(x: Any, name: str = "x") -> Tensor:
    """Return ``x`` as a detached tensor that autograd can start from.

    Raises:
        TypeError: ``x`` is not a tensor, or its dtype is not a real floating one.
        ValueError: ``x`` has no elements.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, expected a torch.Tensor; wrap it in torch.tensor(...)")
    if not x.dtype.is_floating_point:
        raise TypeError(
            f"{name}: got dtype {x.dtype}, expected a real floating dtype; "
            "convert with .to(torch.float32) (complex input: differentiate real and imaginary parts)"
        )
    if x.layout is not torch.strided:
        raise TypeError(f"{name}: got layout {x.layout}, expected a dense tensor; differentiate in {name}.to_dense()")
    if x.numel() == 0:
        raise ValueError(f"{name}: got an empty tensor of shape {tuple(x.shape)}, expected at least one element")
    return _own(x)


def _own(tensor: Tensor) -> Tensor:
    """A tensor that derivatives can be taken at: detached, unless its graph is part of a larger derivative.

    Copied where it was made in inference mode (it cannot be saved for backward), and where entries share memory
    (``expand``): forward mode writes tangents of the same strides.
    """
    if not kept():
        tensor = tensor.detach()
    physical = tensor
    while is_functorch_wrapped_tensor(physical):  # of which vmap's cannot be asked
        physical = get_unwrapped(physical)
    if tensor.is_inference() or torch._debug_has_internal_overlap(physical) == 1:
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor


def check_direction(v: Any, x: Tensor, name: str = "v") -> Tensor:
    """Return ``v`` detached after checking that it pairs with ``x``.

    Raises:
        TypeError: ``v`` is not a tensor or its dtype differs from that of ``x``.
        ValueError: shape or device differ from those of ``x``.
    """
    if not isinstance(v, Tensor):
        raise TypeError(f"{name}: got {type(v).__name__}, expected a torch.Tensor shaped like x")
    if v.shape != x.shape:
        raise ValueError(f"{name}: got shape {tuple(v.shape)}, expected {tuple(x.shape)} like x; reshape or expand it")
    if v.dtype != x.dtype:
        raise TypeError(f"{name}: got dtype {v.dtype}, expected {x.dtype} like x; convert with v.to(x.dtype)")
    if v.device != x.device:
        raise ValueError(f"{name}: got device {v.device}, expected {x.device} like x; move it with v.to(x.device)")
    return _own(v)


def _plain(value: Any) -> Any:
    """A NumPy scalar or a 0-dimensional tensor as the Python number it holds; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def check_integer(value: Any, name: str, expected: str = "an int") -> int:
    """Return ``value`` as an int after checking that it is an integer: an int, NumPy's, or a 0-dimensional tensor's.

    Raises:
        TypeError: it is not; a bool is none.
    """
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(number, numbers.Integral):
        raise TypeError(f"{name}: got {value!r} of type {type(value).__name__}, expected {expected}")
    return int(number)


def check_order(order: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """Return ``order`` after checking that it is an integer in range; NumPy's and 0-dimensional tensors count.

    Raises:
        TypeError: not an integer.
        ValueError: outside ``[minimum, maximum]``.
    """
    checked = check_integer(order, "order", f"an int >= {minimum}")
    if checked < minimum or (maximum is not None and checked > maximum):
        bound = f">= {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise ValueError(f"order: got {order}, expected {bound}")
    return checked


def check_positive(value: Any, name: str) -> int:
    """Return ``value`` after checking that it is an integer >= 1; NumPy's and 0-dimensional tensors count.

    Raises:
        TypeError: not an integer.
        ValueError: below 1.
    """
    checked = check_integer(value, name, "an int >= 1")
    if checked < 1:
        raise ValueError(f"{name}: got {value}, expected an int >= 1")
    return checked


def check_chunk_size(value: Any) -> int | Budget | None:
    """Return ``chunk_size`` after checking that it is an integer >= 1, None (all at once) or a limit of memory.

    Raises:
        TypeError: not an integer.
        ValueError: below 1.
    """
    return value if value is None or isinstance(value, Budget) else check_positive(value, "chunk_size")


def check_number(value: Any, name: str, *, minimum: float | None = None, positive: bool = False) -> float:
    """Return ``value`` as a float after checking that it is a finite number, at least ``minimum`` or > 0 if asked for.

    NumPy scalars and 0-dimensional tensors count as numbers; a bool does not.

    Raises:
        TypeError: not a real number.
        ValueError: not finite, below the minimum, or not positive.
    """
    bound = " > 0" if positive else "" if minimum is None else f" >= {minimum:g}"
    number = _plain(value)
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TypeError(f"{name}: got {value!r} of type {type(value).__name__}, expected a finite number{bound}")
    number = float(number)
    low = number <= 0 if positive else minimum is not None and number < minimum
    if not math.isfinite(number) or low:
        raise ValueError(f"{name}: got {number:g}, expected a finite number{bound}")
    return number


def check_finite(tensor: Tensor, what: str) -> Tensor:
    """Return ``tensor`` after checking that it holds no NaN and no infinity, on which LAPACK fails or crashes.

    Raises:
        FloatingPointError: it does; the message says what it is, and tells an overflow from a NaN.
    """
    if not bool(tensor.isfinite().all()):
        raise FloatingPointError(f"{what} holds values that are not finite ({not_finite(tensor)})")
    return tensor


def not_finite(tensor: Tensor) -> str:
    """What is not finite in a tensor, and the remedy; a tensor of finite values has a norm that overflows."""
    if bool(tensor.isnan().any()):
        return "NaN; move x, or look at what f computes there"
    return (
        f"infinities: beyond {torch.finfo(tensor.dtype).max:.3g}, where {tensor.dtype} overflows, or at a pole; "
        "scale f down, compute in a wider dtype, or move x"
    )


def scalar_function(f: Any) -> ScalarFunction:
    """Wrap ``f`` so that a result no derivative can start from is named at once.

    The check costs well under a microsecond a call and works under torch.func transforms,
    because it reads only metadata.

    Raises:
        TypeError: ``f`` is not callable; later, when called: f's result is not a real floating tensor.
        ValueError: later, when called: f's result is not 0-dimensional.
    """
    if isinstance(f, WeightedSum):
        return f.mapped(scalar_function)
    if not callable(f):
        raise TypeError(f"f: got {type(f).__name__}, expected a callable taking x and returning a scalar tensor")
    evaluate = callback(f)

    def checked(x: Tensor) -> Tensor:
        y = evaluate(x)
        if not isinstance(y, Tensor):
            raise TypeError(
                f"f: returned {type(y).__name__}, expected a 0-dimensional tensor; "
                "compute with torch operations (no .item(), no numpy)"
            )
        if not y.dtype.is_floating_point:
            raise TypeError(f"f: returned dtype {y.dtype}, expected a real floating dtype; return e.g. .abs().sum()")
        if y.dim() != 0:
            raise ValueError(
                f"f: returned shape {tuple(y.shape)}, expected a 0-dimensional tensor; "
                "reduce it with .sum() or .mean(), .squeeze() a single element, or have f take one sample and ask for "
                "the derivatives of each by in_dims"
            )
        return y

    vars(checked)[_OF] = f
    return checked


def innermost(f: Any) -> Any:
    """The function that :func:`scalar_function` wrapped, as often as it did."""
    while isinstance(f, FunctionType) and _OF in vars(f):
        f = vars(f)[_OF]
    return f


def zeros_for(x: Tensor, order: int) -> Tensor:
    """Zeros of shape ``x.shape * order`` in x's dtype and on its device."""
    return torch.zeros(x.shape * order, dtype=x.dtype, device=x.device)

"""The truth that every method is held against: float64, on the CPU, slow, and independent of the kernels.

It shares no code with ``derivatives/``: plain ``torch.autograd.grad``, one entry after another, no torch.func. It does
not trust autograd either: each order is checked, along a random direction, against differences of the order below, and
so inductively against values of f. Where entry by entry would take too many sweeps, a product is computed by a chain
and sampled entries of it are recomputed with the differentiations in another order. A result whose truth would be too
large is held against random products, or against entries drawn at random (:func:`sampled`).

    error("hvp", result, f, x, v) <= tolerance(method, torch.float32, 2)      # f, x, v in float64 on the CPU

Another operator brings its truth with ``@truth(operator)`` on a function of that operator's arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hograd_core._registry import Operator, resolve
from hograd_core.reference._comparison import magnitude as magnitude
from hograd_core.reference._comparison import relative_error as relative_error
from hograd_core.reference._comparison import tolerance as tolerance
from hograd_core.reference._derivatives import TRUTHS as _DERIVATIVES
from hograd_core.reference._derivatives import Truth as Truth
from hograd_core.reference._derivatives import TruthError as TruthError
from hograd_core.reference._sampling import sampled as sampled
from hograd_core.reference._sampling import sweeps as sweeps

_TRUTHS: dict[str, Callable[..., Any]] = dict(_DERIVATIVES)


def truth(operator: Operator) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as the truth of ``operator``.

    It takes the operator's arguments, in float64 on the CPU, then ``order`` as a keyword where the operator takes
    one, and returns what the methods return: a tensor, a number, or tuples and dicts of them; or a :class:`Truth`.
    A mapping may hold only those fields of a method's NamedTuple that have a truth.

    Args:
        operator: the operator's record.

    Returns:
        The decorator.

    Raises:
        ValueError: the operator has a truth already.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        if operator.name in _TRUTHS:
            raise ValueError(f"truth: {operator.name!r} has one already")
        _TRUTHS[operator.name] = function
        return function

    return register


def has_truth(operator: str) -> bool:
    """Whether an operator, by its name or an alias, has a reference."""
    return resolve(operator)[0].name in _TRUTHS


def true_value(operator: str, *arguments: Any, order: int | None = None) -> Truth:
    """The true value of an operator with its scale; arguments and errors as in :func:`reference`."""
    record, fixed = resolve(operator)
    if record.name not in _TRUTHS:
        raise ValueError(f"operator: {record.name!r} has no reference; register one with @truth({record.name})")
    for position, argument in enumerate(arguments):
        floating = isinstance(argument, Tensor) and argument.is_floating_point()
        if floating and (argument.dtype != torch.float64 or argument.device.type != "cpu"):
            raise ValueError(
                f"argument {position}: got {argument.dtype} on {argument.device}, expected float64 on the CPU; "
                "build the problem with precise=True"
            )
    keywords: dict[str, Any] = {}
    if record.takes_order:
        keywords["order"] = order if order is not None else fixed if fixed is not None else 2
    # The mathematical kernel of attention is the only one with derivatives of every order.
    with torch.inference_mode(False), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        value = _TRUTHS[record.name](*arguments, **keywords)
    return value if isinstance(value, Truth) else Truth(value)


def reference(operator: str, *arguments: Any, order: int | None = None) -> Any:
    """The true value of an operator.

    Args:
        operator: canonical name or alias.
        *arguments: the operator's arguments; every floating tensor in float64 and on the CPU, and f a function
            whose own constants are float64 too (a problem built with ``precise=True``).
        order: derivative order; None: the operator's or alias's own, 2 for a family.

    Returns:
        What the operator's methods return, in float64 on the CPU, detached.

    Raises:
        ValueError: unknown operator, one without a truth, or an argument of another dtype or device.
        TruthError: two routes to the value disagree.
    """
    return true_value(operator, *arguments, order=order).value


def error(operator: str, result: Any, *arguments: Any, order: int | None = None) -> float:
    """Relative error of a result to the reference, on the reference's scale.

    Args:
        operator: canonical name or alias.
        result: what a method returned.
        *arguments: the operator's arguments, precise, as in :func:`reference`.
        order: derivative order; None: the operator's or alias's own, 2 for a family.

    Returns:
        The error, >= 0, or infinity; see :func:`relative_error`.

    Raises:
        ValueError: unknown operator, one without a truth, or an argument of another dtype or device.
        TruthError: two routes to the value disagree.
    """
    true = true_value(operator, *arguments, order=order)
    return relative_error(result, true.value, true.scale)

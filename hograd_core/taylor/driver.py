"""Taylor mode: derivatives of any order along a direction, in one pass of f."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hograd_core._checks import check_order
from hograd_core._entrance import in_transform
from hograd_core._unsupported import UnsupportedError
from hograd_core.taylor import _attention, _compound, _elementwise, _products, _selection, _special, _structure  # noqa: F401 (fill the table)
from hograd_core.taylor._jet import Jet, new_level
from hograd_core.taylor._series import Series


def propagate(
    f: Callable[[Tensor], Tensor], coefficients: Sequence[Tensor | None], *, recorded: bool | None = None
) -> list[Tensor]:
    """Push a truncated power series through f.

    With x(t) = Σ_k c_k tᵏ, returns the coefficients of f(x(t)) up to the same degree. f may return a tensor of any
    shape; for a batch of independent points, put the batch in the shape of x.

    Cost: O(d²) times the operations of f at degree d (Griewank & Walther 2008, §13.2); matrix products with
    constants cost d + 1 times, in one call. Coefficients stay differentiable with respect to c_k and to
    parameters f closes over, whenever gradients are enabled.

    Args:
        f: any PyTorch code; see :func:`hograd_core.taylor.coverage` for the operations known.
        coefficients: c_0 … c_d, shaped alike, one dtype and device; None (not c_0): zero.
        recorded: whether autograd records the coefficients; None: as gradients are enabled now. f itself always
            runs in the grad mode of the call, so that derivatives it takes of its own are found.

    Returns:
        d + 1 tensors of f's shape.

    Raises:
        TypeError: f is not callable, or returned something else than a tensor.
        ValueError: fewer than one coefficient, or shapes, dtypes or devices differ.
        MissingRuleError: f uses an operation without a rule (an :class:`~hograd_core.UnsupportedError`).
    """
    if not callable(f):
        raise TypeError(f"f: got {type(f).__name__}, expected a callable taking x and returning a tensor")
    first = coefficients[0] if coefficients else None
    if not isinstance(first, Tensor):
        raise ValueError("coefficients: got none of degree 0, expected a sequence that starts with the point x")
    for k, c in enumerate(coefficients):
        if c is not None and (c.shape, c.dtype, c.device) != (first.shape, first.dtype, first.device):
            raise ValueError(
                f"coefficients[{k}]: got {tuple(c.shape)} {c.dtype} on {c.device}, "
                f"expected {tuple(first.shape)} {first.dtype} on {first.device} like coefficients[0]"
            )
    if in_transform():
        raise UnsupportedError(
            "taylor",
            "autograd inside torch.func: a series hides its coefficients from torch.func's transforms; "
            "differentiate with hograd_core.gradient, take batches by in_dims, or use a method of torch.func inside",
        )
    level = new_level()
    recorded = torch.is_grad_enabled() if recorded is None else recorded
    result = f(Jet(Series(coefficients), level, recorded))
    if not isinstance(result, Tensor):
        raise TypeError(f"f: returned {type(result).__name__}, expected a tensor; compute with torch operations")
    if not isinstance(result, Jet) or result.level != level:
        # f does not depend on x.
        return [result, *(torch.zeros_like(result) for _ in coefficients[1:])]
    primal = result.coefficients[0]
    assert primal is not None
    return [torch.zeros_like(primal) if c is None else c for c in result.coefficients]


def derivatives_along(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, order: int) -> list[Tensor]:
    """f(x + t v) and its derivatives in t at 0, of orders 0 to ``order``, in one pass.

    Args:
        f: maps x to a tensor of any shape.
        x: the point, any shape; real floating.
        v: the direction, like x.
        order: the highest order.

    Returns:
        order + 1 tensors of f's shape; number k is dᵏ/dtᵏ f(x + t v) at t = 0.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        MissingRuleError: f uses an operation without a rule.
    """
    order = check_order(order, minimum=0)
    series = propagate(f, [x, v, *[None] * (order - 1)][: order + 1])
    return [c if k < 2 else c * math.factorial(k) for k, c in enumerate(series)]

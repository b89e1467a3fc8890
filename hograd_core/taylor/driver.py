"""Taylor mode: derivatives of any order along a direction, in one pass of f."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import check_order
from hograd_core._entrance import in_transform
from hograd_core._unsupported import UnsupportedError
from hograd_core.taylor import _attention, _compound, _elementwise, _products, _selection, _special, _structure  # noqa: F401 (fill the table)
from hograd_core.taylor._collapsed import Weights, Wide, weighted_sum
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
    series = _through(f, Series(coefficients), recorded)
    return [torch.zeros_like(series[0]) if c is None else c for c in series]


def _through(
    f: Callable[[Tensor], Tensor], series: Series, recorded: bool | None, weights: Weights | None = None
) -> list[Any]:
    """The coefficients of f along a series, as a jet has them."""
    if in_transform():
        raise UnsupportedError(
            "taylor",
            "autograd inside torch.func: a series hides its coefficients from torch.func's transforms; "
            "differentiate with hograd_core.gradient, take batches by in_dims, or use a method of torch.func inside",
        )
    level = new_level()
    recorded = torch.is_grad_enabled() if recorded is None else recorded
    result = f(Jet(series, level, recorded, weights))
    if not isinstance(result, Tensor):
        raise TypeError(f"f: returned {type(result).__name__}, expected a tensor; compute with torch operations")
    if not isinstance(result, Jet) or result.level != level:
        # f does not depend on x.
        return [result, *[None] * series.degree]
    return result.coefficients


def summed_along(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    directions: Tensor,
    order: int,
    weights: Sequence[float] | None = None,
    *,
    recorded: bool | None = None,
) -> Tensor:
    """Σ_r w_r dᵏ/dtᵏ f(x + t v_r) at t = 0, in one collapsed pass (Dangel et al. 2025, §3).

    What does not depend on the direction is computed once, and of the highest coefficients their sum alone is
    propagated: linear maps of f cost 2 + (k − 1) R products instead of the (k + 1) R of R passes.

    Args:
        f: maps x to a tensor of any shape.
        x: the point, any shape; real floating.
        directions: v_r, shape (R, *shape of x), R >= 1.
        order: k >= 1.
        weights: w_r, R numbers of any sign; None: all 1.
        recorded: as in :func:`propagate`.

    Returns:
        A tensor of f's shape.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        MissingRuleError: f uses an operation without a rule.
    """
    order = check_order(order)
    if directions.shape[1:] != x.shape or directions.dim() == 0 or directions.shape[0] == 0:
        raise ValueError(
            f"directions: got shape {tuple(directions.shape)}, expected (R, {', '.join(map(str, x.shape))}), R >= 1"
        )
    if (directions.dtype, directions.device) != (x.dtype, x.device):
        raise ValueError(
            f"directions: got {directions.dtype} on {directions.device}, expected {x.dtype} on {x.device} like x"
        )
    count = directions.shape[0]
    if weights is not None and len(weights) != count:
        raise ValueError(f"weights: got {len(weights)} of them, expected {count}, one a direction")
    scale = float(count) if weights is None else sum(map(abs, weights))
    if scale == 0:
        return torch.zeros_like(f(x))
    each: Weights = 1 / count
    if weights is not None and len(set(weights)) > 1:
        # Of weights that sum to one the rest goes to a direction that contributes nothing of its own: zero.
        parts = [w / scale for w in weights]
        rest = 1 - sum(parts)
        if abs(rest) > 1e-12:
            parts, directions = [*parts, rest], torch.cat([directions, torch.zeros_like(directions[:1])])
        each = torch.tensor(parts, dtype=x.dtype, device=x.device)
    elif weights is not None:
        scale = count * weights[0]
    first: Any = Wide(directions) if order > 1 else weighted_sum(directions, each)
    found = _through(f, Series([x, first, *[None] * (order - 1)]), recorded, each)
    highest: Tensor | None = found[order]
    if highest is None:
        return torch.zeros_like(found[0])
    return highest * (scale * math.factorial(order))


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

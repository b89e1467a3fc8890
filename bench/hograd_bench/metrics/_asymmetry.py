"""How far a derivative tensor is from symmetric."""

from __future__ import annotations

import math
from typing import Any

from hograd_bench.metrics._contract import Missing


def asymmetry(result: Any, order: int) -> float | Missing:
    """How far a derivative tensor is from symmetric (Schwarz's theorem), as it was computed.

    Args:
        result: a tensor whose shape is a slot's shape ``order`` times over; a list of them is as bad as the worst.
        order: number of slots.

    Returns:
        The largest |A − Aᵖ| over exchanges p of neighbouring slots (they generate all permutations), over the largest
        |A|; 0 where all entries are 0. Missing for a single slot, and for anything that is not such a tensor.
    """
    import torch
    from torch import Tensor

    if order < 2:
        return Missing("a gradient has one slot: nothing to exchange")
    if isinstance(result, list):
        each = [asymmetry(one, order) for one in result]
        return next((skew for skew in each if isinstance(skew, Missing)), None) or max(each)  # type: ignore[type-var]
    slots = result.ndim // order if isinstance(result, Tensor) else 0
    if not isinstance(result, Tensor) or result.shape != result.shape[:slots] * order:
        return Missing("the result is not of a slot's shape, as often as the order says")
    entries = math.prod(result.shape[:slots])
    tensor = result.detach().to("cpu", torch.float64).reshape((entries,) * order)
    largest = float(tensor.abs().max())
    if not math.isfinite(largest):
        return Missing("the result is not finite")
    if largest == 0:
        return 0.0
    return max(float((tensor - tensor.transpose(i, i + 1)).abs().max()) for i in range(order - 1)) / largest

"""Sums, norms, softmax, losses, normalisation, pooling, and sums that scatter."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from hograd_bench.metrics._formulas._work import Arguments, Formula, Keywords, Table, Work, argument, first, per_element

TABLE = Table()


def _reduction(each: int, after: int = 0, passes: int = 1) -> Formula:
    """``each`` operations for every element reduced in so many passes, ``after`` for every element of the result."""

    def formula(args: Arguments, kwargs: Keywords, out: Any) -> Work:
        result = first(out).numel()
        return Work(each * args[0].numel() + after * result, passes * result)

    return formula


TABLE.add("sum nansum prod amax amin max min argmax argmin cumsum cumprod cummax cummin aminmax trace", _reduction(1))
TABLE.add("mean", _reduction(1, 1))
TABLE.add("logsumexp", _reduction(4, 2, 2))  # max, subtract, exp, add; log, add the max
TABLE.add("var var_mean", _reduction(4, 2, 2))  # mean (add, divide), then subtract, square, add; divide
TABLE.add("std std_mean", _reduction(4, 3, 2))


def _vector_norm(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """Order 2: square, add, root. Orders 1 and inf: absolute value, and add or compare. Else two functions."""
    order = argument(args, kwargs, 1, "ord", 2)
    root = 0 if order in (0, 1, math.inf, -math.inf) else 1
    each = 3 if order not in (0, 1, 2, math.inf, -math.inf) else 2
    return Work(each * args[0].numel() + root * first(out).numel(), first(out).numel())


TABLE.add("linalg_vector_norm norm", _vector_norm)


def _rows(extent: Tensor, dim: int) -> int:
    return extent.numel() // max(1, extent.shape[dim]) if extent.dim() else 1


def _softmax(each: int, per_row: int, passes: int) -> Formula:
    """Passes of reduction over one dimension, and elementwise work; ``args[1]`` (2 in backward) is the dimension."""

    def formula(args: Arguments, kwargs: Keywords, out: Any) -> Work:
        dim = args[1] if isinstance(args[1], int) else args[2]
        rows = _rows(out, dim)
        return Work(each * out.numel() + per_row * rows, passes * rows)

    return formula


TABLE.add("_softmax _safe_softmax softmax", _softmax(5, 0, 2))  # max, subtract, exp, add, divide
TABLE.add("_log_softmax log_softmax", _softmax(5, 1, 2))  # max, subtract, exp, add, subtract; log a row
TABLE.add("_softmax_backward_data _log_softmax_backward_data", _softmax(4, 0, 1))


_MEAN, _NONE = 1, 0  # torch's codes of a loss' reduction


def _mse(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    reduction = argument(args, kwargs, 2, "reduction", _MEAN)
    each = 2 if reduction == _NONE else 3
    return Work(each * args[0].numel() + (reduction == _MEAN), int(reduction != _NONE))


TABLE.add("mse_loss", _mse)
TABLE.add("mse_loss_backward", per_element(3))


def _nll_forward(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """Subtract the picked entries (times their weights) from zero; divide by their number where it is a mean."""
    _, target, weight, reduction = args[:4]
    weighted = 0 if weight is None else target.numel()
    if reduction == _NONE:
        return Work(target.numel() + weighted)
    return Work(target.numel() + weighted + (reduction == _MEAN), 1)


def _nll_backward(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """One value, negated (and divided), written at the picked entries (times their weights)."""
    _, _, target, weight, reduction = args[:5]
    scalar = target.numel() if reduction == _NONE else 1 + (reduction == _MEAN)
    return Work(scalar + (0 if weight is None else target.numel()))


TABLE.add("nll_loss_forward nll_loss2d_forward", _nll_forward)
TABLE.add("nll_loss_backward nll_loss2d_backward", _nll_backward)


def _layer_norm(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """Mean (1), variance (3), normalise (2), and 2 for weight and bias; rows: two divisions, eps, root."""
    affine = (args[2] is not None) + (args[3] is not None)
    rows = out[1].numel()
    return Work((6 + affine) * args[0].numel() + 5 * rows, 2 * rows)


TABLE.add("native_layer_norm", _layer_norm)

TABLE.add("index_add scatter_add", lambda args, kwargs, out: Work(args[3].numel()))
TABLE.add("embedding_dense_backward", lambda args, kwargs, out: Work(args[0].numel()))
TABLE.add("unfold_backward", lambda args, kwargs, out: Work(args[0].numel()))


def _index_put(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    return Work(args[2].numel() if argument(args, kwargs, 3, "accumulate", False) else 0)


TABLE.add("index_put _index_put_impl _unsafe_index_put", _index_put)


def _average_pool(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    window = math.prod(args[1]) if len(args[1]) > 1 else args[1][0] ** 2
    return Work((window + 1) * out.numel(), out.numel())


TABLE.add("avg_pool2d", _average_pool)

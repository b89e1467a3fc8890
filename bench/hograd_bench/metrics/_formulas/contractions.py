"""Matrix products, convolutions, attention; dense linear algebra by its leading term."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from hograd_bench.metrics._formulas._work import Arguments, Formula, Keywords, Table, Work, first

TABLE = Table()


def _product(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """mm, bmm, mv, dot: two operations for each term of each element of the result."""
    result = first(out).numel()
    return Work(2 * result * args[0].shape[-1], result)


TABLE.add("mm bmm mv dot vdot", _product)


def _added_product(position: int) -> Formula:
    """beta*self + alpha*(a @ b): the product, one addition an element, and the scalings that are not by 1."""

    def formula(args: Arguments, kwargs: Keywords, out: Any) -> Work:
        result = first(out).numel()
        beta, alpha = kwargs.get("beta", 1), kwargs.get("alpha", 1)
        scalings = (beta not in (0, 1)) + (alpha != 1)
        combine = (beta != 0) + scalings
        return Work(2 * result * args[position].shape[-1] + combine * result, result)

    return formula


TABLE.add("addmm addmv baddbmm", _added_product(1))


def _addr(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    scalings = (kwargs.get("beta", 1) != 1) + (kwargs.get("alpha", 1) != 1)
    return Work((2 + scalings) * first(out).numel())


TABLE.add("addr", _addr)


def _convolution(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """Torch's count of multiply-adds, and one addition an element for the bias."""
    packet = torch.ops.aten.convolution
    bias = 0 if args[2] is None else out.numel()
    return Work(int(flop_registry[packet](*args, **kwargs, out_val=out)) + bias, out.numel())


TABLE.add("convolution", _convolution)


def _convolution_backward(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """Torch's count for the gradients asked for; the bias' gradient sums the output's."""
    packet = torch.ops.aten.convolution_backward
    flops = int(flop_registry[packet](*args, **kwargs, out_val=out))
    started = sum(t.numel() for t in out if t is not None)
    bias = args[0].numel() if args[-1][2] else 0
    return Work(flops + bias, started)


TABLE.add("convolution_backward", _convolution_backward)


def _attention(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """Torch's two products, and for each score: scale, and the five operations of a softmax."""
    query, key, value = args[:3]
    scores = query.numel() // query.shape[-1] * key.shape[-2]
    products = int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]
    return Work(products + 6 * scores)


def _attention_backward(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """Torch's five products, and for each score: scale, subtract, exp; then the softmax's backward and scale."""
    gradient, query, key, value = args[:4]
    scores = query.numel() // query.shape[-1] * key.shape[-2]
    shapes = (gradient.shape, query.shape, key.shape, value.shape)
    products = int(sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]
    return Work(products + 8 * scores)


TABLE.add("_scaled_dot_product_flash_attention_for_cpu", _attention)
TABLE.add("_scaled_dot_product_flash_attention_for_cpu_backward", _attention_backward)

# Leading terms of Golub & Van Loan 2013, §3.2, §4.2, §5.2.


def _cube(numerator: int, denominator: int) -> Formula:
    """A share of n^3 for every matrix of a batch."""

    def formula(args: Arguments, kwargs: Keywords, out: Any) -> Work:
        n = args[0].shape[-1]
        return Work(numerator * args[0].numel() * n // denominator)

    return formula


TABLE.add("linalg_cholesky_ex cholesky", _cube(1, 3))
TABLE.add("linalg_lu_factor_ex linalg_lu linalg_ldl_factor_ex _linalg_det _linalg_slogdet", _cube(2, 3))
TABLE.add("linalg_inv_ex", _cube(2, 1))


def _solve(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """LU, then a forward and a backward substitution for each right-hand side."""
    a, b = args[0], args[1]
    n = a.shape[-1]
    columns = b.numel() // n
    return Work(2 * a.numel() * n // 3 + 2 * n * columns * n)


TABLE.add("_linalg_solve_ex", _solve)
TABLE.add("linalg_solve_triangular", lambda args, kwargs, out: Work(args[1].numel() * args[0].shape[-1]))
TABLE.add("triangular_solve", lambda args, kwargs, out: Work(args[0].numel() * args[1].shape[-1]))
TABLE.add("cholesky_solve", lambda args, kwargs, out: Work(2 * args[0].numel() * args[1].shape[-1]))

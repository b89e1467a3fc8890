"""Rules of operations put together from others: softmax, norms, normalisation, losses, products, linear algebra."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from hograd_core.taylor import _functions as functions
from hograd_core.taylor import _series as s
from hograd_core.taylor._jet import aten, rule
from hograd_core.taylor._selection import _abs, _amax, _amin, abs_square, logsumexp
from hograd_core.taylor._series import Coefficient, Operand, Series


@rule(aten._log_softmax)
def _log_softmax(u: Series, dim: int, half_to_float: bool = False) -> Series:
    if half_to_float:
        u = u.map(lambda c: c.float())
    total = logsumexp(u, dim, True)
    result = s.add(u, total, alpha=-1)
    return Series([aten._log_softmax(u.primal, dim, False), *result.c[1:]])


@rule(aten._softmax)
def _softmax(u: Series, dim: int, half_to_float: bool = False) -> Series:
    if half_to_float:
        u = u.map(lambda c: c.float())
    return functions.exp(_log_softmax(u, dim), aten._softmax(u.primal, dim, False))


@rule(aten._safe_softmax)
def _safe_softmax(u: Series, dim: int, dtype: torch.dtype | None = None) -> Series:
    if dtype is not None:
        u = u.map(lambda c: c.to(dtype))
    dead = (u.primal == -math.inf).all(dim, keepdim=True)
    # A row that is wholly masked out is zero, not NaN, and so is its gradient: the softmax there is one of zeros.
    u = Series([torch.where(dead, 0.0, u.primal), *u.c[1:]])
    return _softmax(u, dim).map(lambda c: torch.where(dead, 0.0, c))


@rule(aten.linalg_vector_norm)
def _vector_norm(
    u: Series, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Series:  # fmt: skip
    if dtype is not None:
        u = u.map(lambda c: c.to(dtype))
    axes = list(range(u.primal.dim())) if dim is None else dim
    if ord == 0:
        # The number of elements that are not zero: constant between the jumps.
        return s.constant(torch.linalg.vector_norm(u.primal.detach(), 0, axes, keepdim), u.degree)
    if ord == 2:
        return functions.sqrt(_summed(abs_square(u), axes, keepdim))
    size = _abs(u)
    if ord == 1:
        return _summed(size, axes, keepdim)
    if math.isinf(ord):
        return (_amax if ord > 0 else _amin)(size, axes, keepdim)
    return functions.power(_summed(functions.power(size, ord), axes, keepdim), 1 / ord)


def _summed(u: Series, dim: Any, keepdim: bool) -> Series:
    return u.map(lambda c: c.sum(dim, keepdim=keepdim))


def _averaged(u: Series, dim: Any, keepdim: bool = True) -> Series:
    return u.map(lambda c: c.mean(dim, keepdim=keepdim))


def _variance(u: Series, dim: Any, correction: float, keepdim: bool) -> Series:
    axes = list(range(u.primal.dim())) if dim is None else dim
    centred = s.add(u, _averaged(u, axes), alpha=-1)
    total = _summed(abs_square(centred), axes, keepdim)
    count = u.primal.numel() / max(total.primal.numel(), 1)
    return total.map(lambda c: c / max(count - correction, 0.0) if count > correction else c * math.nan)


@rule(aten.var)
def _var(u: Series, dim: Any = None, unbiased: Any = True, keepdim: bool = False, *, correction: Any = None) -> Series:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    amount = float(unbiased) if correction is None else float(correction)
    return _variance(u, dim, amount, keepdim)


@rule(aten.std)
def _std(u: Series, *args: Any, **kwargs: Any) -> Series:
    return functions.sqrt(_var(u, *args, **kwargs))


@rule(aten.var_mean)
def _var_mean(
    u: Series, dim: Any = None, unbiased: Any = True, keepdim: bool = False, *, correction: Any = None
) -> Any:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    axes = list(range(u.primal.dim())) if dim is None else dim
    return _var(u, dim, unbiased, keepdim, correction=correction), _averaged(u, axes, keepdim)


def _standardised(u: Series, axes: list[int], eps: float) -> tuple[Series, Series, Series]:
    mean = _averaged(u, axes)
    centred = s.add(u, mean, alpha=-1)
    variance = _averaged(s.square(centred), axes)
    rstd = functions.power_real(s.add(variance, eps), -0.5)
    return s.multiply(centred, rstd), mean, rstd


def _affine(u: Operand, weight: Operand | None, bias: Operand | None) -> Any:
    if weight is not None:
        u = s.multiply(u, weight) if isinstance(u, Series) or isinstance(weight, Series) else u * weight
    if bias is not None:
        u = s.add(u, bias) if isinstance(u, Series) or isinstance(bias, Series) else u + bias
    return u


@rule(aten.native_layer_norm)
def _layer_norm(u: Operand, shape: list[int], weight: Any, bias: Any, eps: float) -> Any:
    if not isinstance(u, Series):
        plain, mean, rstd = aten.native_layer_norm(u, shape, None, None, eps)
        return _affine(plain, weight, bias), mean, rstd
    normal, mean, rstd = _standardised(u, list(range(-len(shape), 0)), eps)
    return _affine(normal, weight, bias), mean, rstd


@rule(aten.native_group_norm)
def _group_norm(u: Any, weight: Any, bias: Any, n: int, channels: int, hw: int, groups: int, eps: float) -> Any:
    shape = (u.primal if isinstance(u, Series) else u).shape
    per_channel = (1, channels, *(1,) * (len(shape) - 2))
    weight, bias = (_reshape(p, per_channel) for p in (weight, bias))
    if not isinstance(u, Series):
        plain, mean, rstd = aten.native_group_norm(u, None, None, n, channels, hw, groups, eps)
        return _affine(plain, weight, bias), mean, rstd
    normal, mean, rstd = _standardised(u.map(lambda c: c.reshape(n, groups, -1)), [-1], eps)
    mean, rstd = (x.map(lambda c: c.squeeze(-1)) for x in (mean, rstd))
    return _affine(normal.map(lambda c: c.reshape(shape)), weight, bias), mean, rstd


def _reshape(p: Any, shape: tuple[int, ...]) -> Any:
    return p.map(lambda c: c.reshape(shape)) if isinstance(p, Series) else None if p is None else p.reshape(shape)


@rule(aten._native_batch_norm_legit)
def _batch_norm_legit(u: Any, weight: Any, bias: Any, *settings: Any) -> Any:
    if len(settings) == 5:
        return _batch_norm(u, weight, bias, *settings)
    return _batch_norm(u, weight, bias, None, None, *settings)


@rule(aten._native_batch_norm_legit_no_training)
def _batch_norm_fixed(
    u: Any, weight: Any, bias: Any, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float
) -> Any:
    dims = (u.primal if isinstance(u, Series) else u).dim()
    mean, var, weight, bias = (
        _reshape(p, (1, -1, *(1,) * (dims - 2))) for p in (running_mean, running_var, weight, bias)
    )
    scale = torch.rsqrt(var + eps)
    shifted = s.add(u, -mean) if isinstance(u, Series) else u - mean
    normal = s.multiply(shifted, scale) if isinstance(shifted, Series) else shifted * scale
    return _affine(normal, weight, bias), mean.new_empty(0), mean.new_empty(0)


@rule(aten.native_batch_norm)
def _batch_norm(
    u: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float
) -> Any:
    if not training:
        return _batch_norm_fixed(u, weight, bias, running_mean, running_var, momentum, eps)
    if running_mean is not None:
        # Updating the statistics would be a side effect of taking a derivative.
        running_mean = running_var = None
    if not isinstance(u, Series):
        plain, mean, rstd = aten.native_batch_norm(u, None, None, None, None, True, momentum, eps)
    else:
        plain, mean, rstd = _standardised(u, [0, *range(2, u.primal.dim())], eps)
    dims = (u.primal if isinstance(u, Series) else u).dim()
    weight, bias = (_reshape(p, (1, -1, *(1,) * (dims - 2))) for p in (weight, bias))
    # The statistics as the backward reads them: one a channel.
    return _affine(plain, weight, bias), _reshape(mean, (-1,)), _reshape(rstd, (-1,))


@rule(aten.nll_loss_forward, aten.nll_loss2d_forward)
def _nll_loss(u: Series, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int) -> Any:
    # Linear in the log-probabilities; the second result is the weight summed over the targets.
    operation = aten.nll_loss_forward if u.primal.dim() <= 2 else aten.nll_loss2d_forward
    total = operation(u.primal, target, weight, reduction, ignore_index)[1]
    return u.map(lambda c: operation(c, target, weight, reduction, ignore_index)[0]), total


@rule(aten.mse_loss)
def _mse_loss(a: Operand, b: Operand, reduction: int = 1) -> Series:
    squares = s.square(s.add(a, b, alpha=-1))
    return squares if reduction == 0 else squares.map(torch.mean if reduction == 1 else torch.sum)


@rule(aten.prod)
def _prod(u: Series, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Series:
    if dtype is not None:
        u = u.map(lambda c: c.to(dtype))
    if dim is None:
        u, dim = u.map(lambda c: c.reshape(-1)), 0
    if u.primal.dim() == 0:
        return u
    factors = [u.map(functools.partial(torch.select, dim=dim, index=i)) for i in range(u.primal.shape[dim])]
    # Pairwise, so that rounding grows with log n and no factor is ever divided out (a zero is no exception).
    while len(factors) > 1:
        pairs = [s.multiply(factors[i], factors[i + 1]) for i in range(0, len(factors) - 1, 2)]
        factors = pairs + ([factors[-1]] if len(factors) % 2 else [])
    return factors[0].map(lambda c: c.unsqueeze(dim)) if keepdim else factors[0]


@rule(torch.ops.prims.prod)
def _prod_over(u: Series, dims: list[int] | None, *, output_dtype: torch.dtype | None = None) -> Series:
    """What PyTorch's decomposition of cumprod comes down to, as in the backward of prod with zeros."""
    for dim in sorted(range(u.primal.dim()) if dims is None else dims, reverse=True):
        u = _prod(u, dim)
    return u if output_dtype is None else u.map(lambda c: c.to(output_dtype))


def _solved(a: Series, b: Operand, solve: Any) -> Series:
    """A X = B: A_0 X_k = B_k − Σ_{j=1..k} A_j X_{k-j}."""
    right = b if isinstance(b, Series) else s.constant(b, a.degree)  # type: ignore[arg-type]
    x: list[Coefficient] = [solve(right.primal)]
    for k in range(1, a.degree + 1):
        total = right.c[k]
        for j in range(1, k + 1):
            a_j, x_j = a.c[j], x[k - j]
            if a_j is not None and x_j is not None:
                total = s.plus(total, -(a_j @ x_j))
        x.append(None if total is None else solve(total))
    return Series(x)


@rule(aten.linalg_inv_ex)
def _inverse(a: Series, *, check_errors: bool = False) -> Any:
    inverse, info = torch.linalg.inv_ex(a.primal, check_errors=check_errors)
    eye = torch.eye(inverse.shape[-1], dtype=inverse.dtype, device=inverse.device).expand_as(inverse)
    return _solved(a, eye, lambda r: inverse @ r), info


@rule(aten._linalg_solve_ex)
def _solve(a: Operand, b: Operand, *, left: bool = True, check_errors: bool = False) -> Any:
    if not left:
        swapped = (_transposed(x) for x in (a, b))
        result = _solve(*swapped, check_errors=check_errors)
        return (_transposed(result[0]), *result[1:])
    shape = (b.primal if isinstance(b, Series) else b).shape  # type: ignore[union-attr]
    primal = a.primal if isinstance(a, Series) else a
    vector = len(shape) == 1 or len(shape) == primal.dim() - 1  # type: ignore[union-attr]
    right = _reshape(b, (*shape, 1)) if vector else b
    lu, pivots, info = torch.linalg.lu_factor_ex(primal, check_errors=check_errors)

    def solve(r: Tensor) -> Tensor:
        solution: Tensor = torch.linalg.lu_solve(lu, pivots, r)
        return solution

    series = _solved(a, right, solve) if isinstance(a, Series) else right.map(solve)  # type: ignore[union-attr]
    return series.map(lambda c: c.squeeze(-1)) if vector else series, lu.detach(), pivots, info


def _transposed(x: Any) -> Any:
    return x.map(lambda c: c.mT) if isinstance(x, Series) else x.mT


def _log_abs_det(a: Series) -> Series:
    """y' = tr(A⁻¹ A') (Jacobi's formula): with B_j = A_0⁻¹ A_j and X = A⁻¹ A', X_k = k B_k − Σ_{0<j<k} B_j X_{k-j}.

    Of the highest X its trace is made alone, which takes no product of matrices.
    """
    lu, pivots = torch.linalg.lu_factor(a.primal)
    b = [None if c is None else torch.linalg.lu_solve(lu, pivots, c) for c in a.c[1:]]
    x: list[Coefficient] = []
    y: list[Coefficient] = [torch.linalg.slogdet(a.primal)[1]]
    for k in range(1, a.degree + 1):
        last = b[k - 1]
        trace = None if last is None else last.diagonal(dim1=-2, dim2=-1).sum(-1) * k
        total = None if last is None or k == a.degree else last * k
        for b_j, x_j in zip(b, reversed(x), strict=False):
            if b_j is not None and x_j is not None:
                trace = s.plus(trace, -(b_j * x_j.mT).sum((-2, -1)))
                total = total if k == a.degree else s.plus(total, -(b_j @ x_j))
        x.append(total)
        y.append(s.over(trace, k))
    return Series(y)


@rule(aten._linalg_slogdet)
def _slogdet(a: Series) -> Any:
    sign, _, lu, pivots = aten._linalg_slogdet(a.primal.detach())
    logarithm = _log_abs_det(a)
    if not a.primal.is_complex():
        return sign, logarithm, lu, pivots
    turned = Series([torch.zeros_like(sign), *(None if c is None else 1j * c.imag for c in logarithm.c[1:])])
    size = Series([logarithm.primal, *(None if c is None else c.real for c in logarithm.c[1:])])
    return functions.exp(turned, torch.linalg.slogdet(a.primal)[0]), size, lu, pivots


@rule(aten._linalg_det)
def _det(a: Series) -> Any:
    # det = sign · exp(log|det|): needs A(0) regular, as PyTorch's own higher derivatives of det do.
    value, lu, pivots = aten._linalg_det(a.primal)
    logarithm = _log_abs_det(a)
    return functions.exp(logarithm, value), lu.detach(), pivots


@rule(aten.linalg_cholesky_ex)
def _cholesky(a: Series, *, upper: bool = False, check_errors: bool = False) -> Any:
    """L Lᵀ = A: L_k = L_0 Φ(L_0⁻¹ (A_k − Σ_{0<j<k} L_j L_{k-j}ᵀ) L_0⁻ᵀ), Φ the lower triangle, half diagonal."""
    first, info = torch.linalg.cholesky_ex(a.primal, check_errors=check_errors)
    out: list[Coefficient] = [first]
    for k in range(1, a.degree + 1):
        total = a.c[k]
        if total is not None:
            total = (total + total.mH) / 2
        for j in range(1, k):
            left, right = out[j], out[k - j]
            if left is not None and right is not None:
                total = s.plus(total, -(left @ right.mH))
        if total is None:
            out.append(None)
            continue
        half = torch.linalg.solve_triangular(first, total, upper=False)
        inner = torch.linalg.solve_triangular(first, half.mH, upper=False).mH
        out.append(first @ (inner.tril() - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1)) / 2))
    factor = Series(out)
    return (factor.map(lambda c: c.mH) if upper else factor), info


@rule(aten.linalg_solve_triangular)
def _solve_triangular(a: Operand, b: Operand, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    if not left:
        swapped = (_transposed(x) for x in (a, b))
        return _transposed(_solve_triangular(*swapped, upper=not upper, unitriangular=unitriangular))
    primal: Any = a.primal if isinstance(a, Series) else a

    def solve(r: Tensor) -> Tensor:
        solution: Tensor = torch.linalg.solve_triangular(primal, r, upper=upper, unitriangular=unitriangular)
        return solution

    if not isinstance(a, Series):
        return b.map(solve)  # type: ignore[union-attr]
    part, skipped = (torch.triu, 1) if upper else (torch.tril, -1)
    # The other triangle is never read, nor a diagonal of ones.
    higher = [None if c is None else part(c, skipped if unitriangular else 0) for c in a.c[1:]]
    return _solved(Series([a.primal, *higher]), b, solve)


@rule(aten.cholesky_solve)
def _cholesky_solve(b: Any, factor: Any, upper: bool = False) -> Any:
    adjoint = factor.map(lambda c: c.mH) if isinstance(factor, Series) else factor.mH
    first, second = (adjoint, factor) if upper else (factor, adjoint)
    if isinstance(first, Series) or isinstance(b, Series):
        return _solve_triangular(second, _solve_triangular(first, b, upper=False), upper=True)
    raise AssertionError("a rule is called with a series")

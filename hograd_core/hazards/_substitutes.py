"""Exact substitutes for operators that PyTorch differentiates wrongly: the same function by formulas that are right.

One table, from torch's public function to the substitute with the same signature; :class:`~._modes.Repairing` goes by
it. Each substitute composes operators whose derivatives of every order are right (proved by the atlas), at the cost of
their intermediate results. Where a function is not twice differentiable (a distance of zero, a singular matrix), the
derivative there stays what it is: a subgradient, or an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Declared = TypeVar("Declared", bound=Callable[..., Any])
SUBSTITUTES: dict[Any, Callable[..., Any]] = {}


def _instead_of(*functions: Any) -> Callable[[Declared], Declared]:
    """Declare what stands in for these functions of torch."""

    def declare(substitute: Declared) -> Declared:
        SUBSTITUTES.update(dict.fromkeys(functions, substitute))
        return substitute

    return declare


def _standardised(x: Tensor, axes: Sequence[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(x − mean) / √(variance + eps) over ``axes``, with mean and (biased) variance, axes kept."""
    mean = x.mean(tuple(axes), keepdim=True)
    centred = x - mean
    variance = (centred * centred).mean(tuple(axes), keepdim=True)
    return centred * torch.rsqrt(variance + eps), mean, variance


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = x if weight is None else x * weight
    return scaled if bias is None else scaled + bias


@_instead_of(F.layer_norm, torch.layer_norm)
def _layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    return _affine(_standardised(input, range(-len(normalized_shape), 0), eps)[0], weight, bias)


@_instead_of(torch.native_layer_norm)
def _native_layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    normal, mean, variance = _standardised(input, range(-len(normalized_shape), 0), eps)
    return _affine(normal, weight, bias), mean, torch.rsqrt(variance + eps)


def _per_channel(parameter: Tensor | None, dims: int) -> Tensor | None:
    return None if parameter is None else parameter.reshape(1, -1, *(1,) * (dims - 2))


def _track(running: Tensor | None, value: Tensor, momentum: float) -> None:
    """Update running statistics as PyTorch does, outside the graph."""
    if running is not None:
        with torch.no_grad():
            running.mul_(1 - momentum).add_(value.detach().reshape(running.shape), alpha=momentum)


@_instead_of(F.batch_norm)
def _batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if not training:
        fixed: Tensor = F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        return fixed
    normal, mean, variance = _standardised(input, (0, *range(2, input.dim())), eps)
    count = input.numel() // input.shape[1]
    _track(running_mean, mean, momentum)
    _track(running_var, variance * (count / max(count - 1, 1)), momentum)
    return _affine(normal, _per_channel(weight, input.dim()), _per_channel(bias, input.dim()))


@_instead_of(torch.batch_norm)
def _torch_batch_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, training: bool, momentum: float, eps: float, cudnn_enabled: bool = True,
) -> Tensor:  # fmt: skip
    return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


@_instead_of(F.instance_norm)
def _instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if not use_input_stats:
        fixed: Tensor = F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        return fixed
    normal, mean, variance = _standardised(input, range(2, input.dim()), eps)
    count = math.prod(input.shape[2:])
    _track(running_mean, mean.mean(0), momentum)
    _track(running_var, variance.mean(0) * (count / max(count - 1, 1)), momentum)
    return _affine(normal, _per_channel(weight, input.dim()), _per_channel(bias, input.dim()))


@_instead_of(F.group_norm)
def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    grouped = input.reshape(input.shape[0], num_groups, -1)
    normal = _standardised(grouped, (2,), eps)[0].reshape(input.shape)
    return _affine(normal, _per_channel(weight, input.dim()), _per_channel(bias, input.dim()))


@_instead_of(torch.group_norm)
def _torch_group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:  # fmt: skip
    return _group_norm(input, num_groups, weight, bias, eps)


@_instead_of(torch._weight_norm)
def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """v · g/‖v‖, the norm over all axes but ``dim`` (Salimans & Kingma 2016, eq. 2); −1: over all."""
    axes = tuple(range(v.dim())) if dim == -1 else tuple(i for i in range(v.dim()) if i != dim % v.dim())
    return v * (g / (v * v).sum(axes, keepdim=True).sqrt())


@_instead_of(torch._weight_norm_interface)
def _weight_norm_interface(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    axes = tuple(i for i in range(v.dim()) if i != dim % v.dim())
    return _weight_norm(v, g, dim), (v * v).sum(axes, keepdim=True).sqrt()


def _triangle(a: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonal of U in A = P L U, and the sign of P."""
    lu, pivots = torch.linalg.lu_factor(a)
    swaps = (pivots != torch.arange(1, a.shape[-1] + 1, dtype=pivots.dtype, device=a.device)).sum(-1)
    return lu.diagonal(dim1=-2, dim2=-1), (1 - 2 * (swaps % 2)).to(lu.dtype)


@_instead_of(torch.det, torch.linalg.det, Tensor.det)
def _det(A: Tensor) -> Tensor:
    diagonal, sign = _triangle(A)
    return sign * diagonal.prod(-1)


@_instead_of(torch.slogdet, torch.linalg.slogdet, Tensor.slogdet)
def _slogdet(A: Tensor) -> Any:
    diagonal, sign = _triangle(A)
    signs = torch.sgn(diagonal) if diagonal.is_complex() else torch.sign(diagonal)
    return torch.return_types.linalg_slogdet((sign * signs.prod(-1), diagonal.abs().log().sum(-1)))  # type: ignore[attr-defined]


@_instead_of(torch.logdet, Tensor.logdet)
def _logdet(A: Tensor) -> Tensor:
    sign, value = _slogdet(A)
    return torch.where(sign == -1, value * math.nan, value)


@_instead_of(torch.linalg.solve)
def _solve(A: Tensor, B: Tensor, *, left: bool = True, out: None = None) -> Tensor:
    vector = B.dim() == 1 or (A.dim() - 1 == B.dim() and B.shape == A.shape[:-1])
    right = B.unsqueeze(-1) if vector else B
    solved: Tensor = torch.linalg.lu_solve(*torch.linalg.lu_factor(A), right, left=left or vector)
    return solved.squeeze(-1) if vector else solved


@_instead_of(torch.linalg.solve_ex)
def _solve_ex(A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False, out: None = None) -> Any:
    info = torch.linalg.lu_factor_ex(A.detach(), check_errors=check_errors)[2]
    return torch.return_types.linalg_solve_ex((_solve(A, B, left=left), info))  # type: ignore[attr-defined]


@_instead_of(torch.linalg.tensorsolve)
def _tensorsolve(A: Tensor, B: Tensor, dims: Sequence[int] | None = None, *, out: None = None) -> Tensor:
    if dims is not None:
        A = A.permute(*(i for i in range(A.dim()) if i not in {d % A.dim() for d in dims}), *dims)
    shape = A.shape[B.dim() :]
    return _solve(A.reshape(B.numel(), -1), B.reshape(-1)).reshape(shape)


@_instead_of(torch.cholesky_inverse, Tensor.cholesky_inverse)
def _cholesky_inverse(L: Tensor, upper: bool = False, *, out: None = None) -> Tensor:
    eye = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device).expand_as(L)
    return torch.cholesky_solve(eye, L, upper=upper)


@_instead_of(torch.triangular_solve, Tensor.triangular_solve)
def _triangular_solve(
    b: Tensor, A: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False, *, out: None = None
) -> Any:
    # Of the triangle that counts, only: PyTorch's formula lets derivatives of the other one in.
    factor = A.triu() if upper else A.tril()
    solution = torch.linalg.solve_triangular(
        factor.mT if transpose else factor, b, upper=upper != transpose, unitriangular=unitriangular
    )
    return torch.return_types.triangular_solve((solution, A.clone()))


@_instead_of(torch.linalg.householder_product, torch.orgqr, Tensor.orgqr)
def _householder_product(A: Tensor, tau: Tensor, *, out: None = None) -> Tensor:
    """The first n columns of (I − τ₁ v₁ v₁ᴴ) (I − τ₂ v₂ v₂ᴴ) …, each v_i 1 at i and A below."""
    m, n = A.shape[-2:]
    product = torch.eye(m, n, dtype=A.dtype, device=A.device).expand(*A.shape[:-2], m, n)
    lower = A.tril(-1) + torch.eye(m, n, dtype=A.dtype, device=A.device)
    for i in range(tau.shape[-1] - 1, -1, -1):
        v = lower[..., :, i : i + 1]
        product = product - tau[..., i : i + 1, None] * v @ (v.mH @ product)
    return product


@_instead_of(torch.masked_select, Tensor.masked_select)
def _masked_select(input: Tensor, mask: Tensor, *, out: None = None) -> Tensor:
    whole: tuple[Tensor, Tensor] = torch.broadcast_tensors(input, mask)  # type: ignore[no-untyped-call]
    return whole[0][whole[1]]


@_instead_of(torch.sinc, Tensor.sinc, torch.special.sinc)
def sinc(input: Tensor, *, out: None = None) -> Tensor:
    """sin(πx)/(πx) whose derivatives of every order are right at and near 0: there its power series."""
    z = input * math.pi
    near = z.abs() < 1
    squared = torch.where(near, z * z, 0.0)
    inner = torch.zeros_like(squared)
    for m in range(19, -1, -1):
        inner = (-1) ** m / math.factorial(2 * m + 1) + squared * inner
    away = torch.where(near, 1.0, z)
    return torch.where(near, inner, torch.sin(away) / away)


@_instead_of(torch.cumprod, Tensor.cumprod)
def _cumprod(input: Tensor, dim: int, *, dtype: torch.dtype | None = None, out: None = None) -> Tensor:
    if dtype is not None:
        input = input.to(dtype)
    if input.dim() == 0:
        return input.clone()
    products: list[Tensor] = []
    for factor in input.unbind(dim):
        products.append(products[-1] * factor if products else factor)
    return torch.stack(products, dim) if products else input.clone()


@_instead_of(torch.prod, Tensor.prod)
def _prod(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None, out: None = None
) -> Tensor:
    if dtype is not None:
        input = input.to(dtype)
    if not (input.is_floating_point() or input.is_complex()) or input.numel() == 0:
        return torch.prod(input) if dim is None else torch.prod(input, dim, keepdim)
    factors = list(input.reshape(-1).unbind() if dim is None else input.unbind(dim) if input.dim() else (input,))
    while len(factors) > 1:  # in pairs, so that rounding grows with the logarithm
        pairs = [a * b for a, b in zip(factors[::2], factors[1::2], strict=False)]
        factors = pairs + factors[2 * len(pairs) :]
    return factors[0].unsqueeze(dim) if keepdim and dim is not None else factors[0]


@_instead_of(torch.logcumsumexp, Tensor.logcumsumexp)
def _logcumsumexp(input: Tensor, dim: int, *, out: None = None) -> Tensor:
    if input.dim() == 0:
        return input.clone()
    sums: list[Tensor] = []
    for term in input.unbind(dim):
        sums.append(torch.logaddexp(sums[-1], term) if sums else term)
    return torch.stack(sums, dim) if sums else input.clone()


def _distance(difference: Tensor, p: float) -> Tensor:
    """The p-norm over the last axis; 0, with a derivative of 0, where the difference is 0."""
    size = difference.abs()
    if p == 0:
        return (size != 0).to(size.dtype).sum(-1)
    if p == 1:
        return size.sum(-1)
    if math.isinf(p):
        return size.amax(-1)
    total = (difference * difference).sum(-1) if p == 2 else _powers(size, p).sum(-1)
    apart = total > 0
    safe = torch.where(apart, total, torch.ones_like(total))
    return torch.where(apart, safe.sqrt() if p == 2 else safe ** (1 / p), torch.zeros_like(total))


def _powers(size: Tensor, p: float) -> Tensor:
    apart = size > 0
    return torch.where(apart, torch.where(apart, size, torch.ones_like(size)) ** p, torch.zeros_like(size))


@_instead_of(torch.cdist)
def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "") -> Tensor:
    return _distance(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)


@_instead_of(torch.pdist, F.pdist)
def _pdist(input: Tensor, p: float = 2.0) -> Tensor:
    i, j = torch.triu_indices(input.shape[0], input.shape[0], 1, device=input.device)
    return _distance(input[i] - input[j], p)


@_instead_of(F.scaled_dot_product_attention)
def _attention(*args: Any, **kwargs: Any) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(*args, **kwargs)


def _natively(function: Callable[..., Any]) -> Callable[..., Any]:
    """A recurrent layer by PyTorch's own kernels: cuDNN's have no double backward."""

    def called(*args: Any, **kwargs: Any) -> Any:
        with torch.backends.cudnn.flags(enabled=False):
            return function(*args, **kwargs)

    return called


for _recurrent in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu):
    SUBSTITUTES[_recurrent] = _natively(_recurrent)

"""Symmetric low-rank factorisation: a quartic in a MATRIX x with a dense Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_bench.problems._closed_forms import along_lines, least_squares
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._series import Series

RANK = 2


@problem(
    "matrix_factorization",
    formula="f(X) = ‖X Xᵀ − M‖²_F / 2, X of shape n × 2, M symmetric",
    source="Burer & Monteiro 2003, Math. Programming 95, symmetric case",
    family="dense",
    sizes={"n": "rows of X; x has 2 n elements"},
    # X Xᵀ: n² entries of 2 multiplications and 1 addition; subtract, square, sum; the half.
    operations=lambda s: {
        "mul": RANK * s.n**2 + s.n**2 + 1,
        "add": (RANK - 1) * s.n**2 + s.n**2 + s.n**2 - 1,
    },
)
def matrix_factorization(spec: Spec, draw: Draw) -> Instance:
    """X of scale n^-1/2, so that X Xᵀ and M stay of order one in norm as n grows."""
    n = spec.n
    half = draw.normal(n, n, scale=n**-0.5)
    m = draw.tensor((half.double() + half.double().T) / 2)
    x = draw.normal(n, RANK, scale=n**-0.5)

    def f(x: Tensor) -> Tensor:
        return 0.5 * ((x @ x.T - m) ** 2).sum()

    def residual(x: Series) -> Series:
        return x @ x.map(lambda c: c.T) - m

    def value(x: Series) -> Series:
        r = residual(x)
        return (r * r * 0.5).map(torch.sum)

    def gradient(x: Series) -> Series:
        return residual(x) @ x * 2.0

    def tensor(order: int) -> Tensor:
        eye = torch.eye(n, dtype=x.dtype, device=x.device)
        rank = torch.eye(RANK, dtype=x.dtype, device=x.device)
        # r_ij = Σ_r X_ir X_jr − M_ij, differentiated by X_kr (and X_ls).
        jacobian = torch.einsum("ik,jr->ijkr", eye, x) + torch.einsum("jk,ir->ijkr", eye, x)
        mixed = torch.einsum("ik,jl,rs->ijkrls", eye, eye, rank)
        second = mixed + mixed.transpose(0, 1)
        entries = least_squares(
            (x @ x.T - m).reshape(-1), jacobian.reshape(n * n, -1), second.reshape(n * n, n * RANK, n * RANK)
        )(order)
        return entries.reshape(x.shape * order)

    return Instance(f, x, closed_form=along_lines(x, value, gradient, tensor))

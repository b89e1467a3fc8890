"""The truth of the solvers' operators: dense solves in float64 on the CPU, on matrices from the definitions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hograd_core.curvature._truth import solve_with_scale, true_fisher, true_gradient, true_hessian
from hograd_core.reference import Truth, reference, truth
from hograd_core.solvers._newton_cg import newton_cg_step
from hograd_core.solvers.natural_gradient import DAMPING, inverse_fisher_vector_product, natural_gradient_step


@truth(newton_cg_step)
def _newton_step(f: Any, x: Tensor, damping: float = 0.0) -> Truth:
    matrix = true_hessian(f, x) + damping * torch.eye(x.numel(), dtype=x.dtype)
    solved = solve_with_scale(matrix, -reference("gradient", f, x).reshape(-1))
    return Truth(solved.value.reshape(x.shape), solved.scale)


def _damped_fisher(module: nn.Module, loss: Any, inputs: Any, targets: Tensor, damping: float) -> Tensor:
    matrix: Tensor = true_fisher(module, loss, inputs, targets)
    return matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype)


@truth(inverse_fisher_vector_product)
def _inverse_product(
    module: nn.Module, loss: Any, inputs: Any, targets: Tensor, v: Tensor, damping: float = DAMPING
) -> Truth:
    return solve_with_scale(_damped_fisher(module, loss, inputs, targets, damping), v)


@truth(natural_gradient_step)
def _natural_step(module: nn.Module, loss: Any, inputs: Any, targets: Tensor, damping: float = DAMPING) -> Truth:
    gradient = true_gradient(module, loss, inputs, targets)
    return solve_with_scale(_damped_fisher(module, loss, inputs, targets, damping), -gradient)

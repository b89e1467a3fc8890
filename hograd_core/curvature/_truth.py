"""The truth of the curvature operators: definitions, entry by entry, in float64 on the CPU.

Plain ``torch.autograd.grad`` on the module itself; no code is shared with the kernels, and no torch.func is used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hograd_core.curvature.diagonal import hessian_diagonal
from hograd_core.curvature.empirical_fisher import empirical_fisher_diagonal, empirical_fisher_matrix
from hograd_core.curvature.fisher import fisher_diagonal, fisher_matrix, fisher_vector_product
from hograd_core.curvature.gauss_newton import gauss_newton_matrix, gauss_newton_vector_product
from hograd_core.curvature.spectrum import hessian_extreme_eigenvalues, hessian_spectral_density
from hograd_core.curvature.trace import hessian_trace
from hograd_core.reference import Truth, reference, truth


def true_hessian(f: Any, x: Tensor) -> Tensor:
    """The (n, n) Hessian, from the reference of ``derivative_tensor``."""
    matrix: Tensor = reference("hessian", f, x).reshape(x.numel(), x.numel())
    return (matrix + matrix.T) / 2


@truth(hessian_diagonal)
def _diagonal(f: Any, x: Tensor) -> Truth:
    matrix = true_hessian(f, x)
    # A product with H sums over a row: its rounding is measured on the largest entry, not on the diagonal's.
    return Truth(matrix.diagonal().reshape(x.shape), float(matrix.abs().max()) or None)


@truth(hessian_trace)
def _trace(f: Any, x: Tensor) -> Truth:
    matrix = true_hessian(f, x)
    scale = max(float(matrix.diagonal().abs().sum()), float(torch.linalg.matrix_norm(matrix)))
    return Truth(matrix.diagonal().sum(), scale or None)


@truth(hessian_extreme_eigenvalues)
def _extremes(f: Any, x: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(true_hessian(f, x))
    return values[[0, -1]]


@truth(hessian_spectral_density)
def _density(f: Any, x: Tensor) -> Tensor:
    # The operator's defaults: 64 points, width 0.05.
    values = torch.linalg.eigvalsh(true_hessian(f, x))
    low, high = float(values[0]), float(values[-1])
    sigma = 0.05 * (max(-low, high) or 1.0)
    grid = torch.linspace(low - 3 * sigma, high + 3 * sigma, 64, dtype=torch.float64)
    bumps = torch.exp(-0.5 * ((grid[:, None] - values) / sigma).square()) / (sigma * math.sqrt(2 * math.pi))
    return torch.stack([grid, bumps.mean(1)])


def _parameters(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _gradient(value: Tensor, module: nn.Module) -> Tensor:
    parameters = _parameters(module)
    pieces: tuple[Tensor | None, ...] = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for g, p in zip(pieces, parameters, strict=True)]
    return torch.cat([g.reshape(-1) for g in flat])


def _call(module: nn.Module, inputs: Any) -> Tensor:
    outputs: Tensor = module(*inputs) if isinstance(inputs, tuple) else module(inputs)
    return outputs


def _sample(inputs: Any, i: int) -> Any:
    return tuple(part[i : i + 1] for part in inputs) if isinstance(inputs, tuple) else inputs[i : i + 1]


def _jacobian(module: nn.Module, inputs: Any) -> tuple[Tensor, Tensor]:
    outputs = _call(module, inputs)
    return outputs.detach(), torch.stack([_gradient(entry, module) for entry in outputs.reshape(-1).unbind()])


def _loss_hessian(loss: Any, outputs: Tensor, targets: Tensor) -> Tensor:
    def of_outputs(flat: Tensor) -> Tensor:
        value: Tensor = loss(flat.reshape(outputs.shape), targets)
        return value

    return true_hessian(of_outputs, outputs.reshape(-1))


@truth(gauss_newton_matrix)
def _gauss_newton(module: nn.Module, loss: Any, inputs: Any, targets: Tensor) -> Tensor:
    outputs, jacobian = _jacobian(module, inputs)
    return jacobian.T @ _loss_hessian(loss, outputs, targets) @ jacobian


@truth(gauss_newton_vector_product)
def _gauss_newton_product(module: nn.Module, loss: Any, inputs: Any, targets: Tensor, v: Tensor) -> Tensor:
    outputs, jacobian = _jacobian(module, inputs)
    return jacobian.T @ (_loss_hessian(loss, outputs, targets) @ (jacobian @ v))


def _scores(module: nn.Module, loss: Any, inputs: Any, targets: Tensor) -> Tensor:
    """Rows A with F = A^T A: scores of outcomes times the root of their probability and of the loss's weight.

    The loss itself is the negative log-likelihood, so each score is its gradient at the outcome as the target.
    """
    name = type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "")
    rows = []
    for i in range(targets.shape[0]):
        outputs = _call(module, _sample(inputs, i))
        if name in ("CrossEntropyLoss", "cross_entropy") and outputs.dim() == 2:
            weight = _weight(loss, targets.shape[0])
            for c, probability in enumerate(outputs.detach().softmax(1)[0].tolist()):
                score = _gradient(loss(outputs, torch.tensor([c])), module)
                rows.append(math.sqrt(weight * probability) * score)
        elif name in ("MSELoss", "mse_loss"):
            # l = |z - y|² w is Gaussian with variance 1/(2 w) an entry, and E[score score^T] = 2 w J^T J.
            count = 1 if _weight(loss, 2) == 1.0 else targets.shape[0] * outputs.numel()
            rows += [math.sqrt(2 / count) * _gradient(entry, module) for entry in outputs.reshape(-1).unbind()]
        else:
            raise NotImplementedError(f"no truth for the Fisher matrix of {name} with outputs {tuple(outputs.shape)}")
    return torch.stack(rows)


def _weight(loss: Any, batch: int) -> float:
    """1/batch for a loss that averages, 1 for one that sums: told from two equal samples."""
    outputs, targets = torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    outputs[:, 1] = targets[:, 0] = 1.0
    ratio = float(loss(outputs, targets) / loss(outputs[:1], targets[:1]))
    return 1.0 / batch if round(ratio) == 1 else 1.0


@truth(fisher_matrix)
def true_fisher(module: nn.Module, loss: Any, inputs: Any, targets: Tensor) -> Tensor:
    """The (P, P) Fisher matrix, for the truths of solves with it too."""
    rows = _scores(module, loss, inputs, targets)
    return rows.T @ rows


@truth(fisher_diagonal)
def _fisher_diagonal(module: nn.Module, loss: Any, inputs: Any, targets: Tensor) -> Tensor:
    return _scores(module, loss, inputs, targets).square().sum(0)


@truth(fisher_vector_product)
def _fisher_product(module: nn.Module, loss: Any, inputs: Any, targets: Tensor, v: Tensor) -> Truth:
    rows = _scores(module, loss, inputs, targets)
    value = rows.T @ (rows @ v)
    # J v may cancel where the rows and v are long; the terms are what rounding acts on.
    scale = float((rows.abs().T @ (rows.abs() @ v.abs())).max())
    return Truth(value, scale or None)


def true_gradient(module: nn.Module, loss: Any, inputs: Any, targets: Tensor) -> Tensor:
    """The gradient of the batch loss by the trainable parameters, (P,)."""
    return _gradient(loss(_call(module, inputs), targets), module)


def _empirical_rows(module: nn.Module, loss: Any, inputs: Any, targets: Tensor) -> Tensor:
    count = targets.shape[0]
    values = [loss(_call(module, _sample(inputs, i)), targets[i : i + 1]) for i in range(count)]
    whole = float(loss(_call(module, inputs), targets).detach())
    mean = sum(float(value.detach()) for value in values) / count
    averages = math.isclose(whole, mean, rel_tol=1e-9, abs_tol=1e-300)
    # s_n = T l_n is the negative log-likelihood of sample n, and a mean weighs each of its T observations 1/(N T).
    observations = 1
    name = type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "")
    if name in ("MSELoss", "mse_loss", "CrossEntropyLoss", "cross_entropy"):
        averages = _weight(loss, 2) != 1.0
        outputs = _call(module, inputs)
        observations = outputs[0].numel() // (outputs.shape[1] if name.startswith(("C", "c")) else 1)
    weight = observations / count if averages else 1.0
    return math.sqrt(weight) * torch.stack([_gradient(value, module) for value in values])


@truth(empirical_fisher_matrix)
def _empirical(module: nn.Module, loss: Any, inputs: Any, targets: Tensor) -> Tensor:
    rows = _empirical_rows(module, loss, inputs, targets)
    return rows.T @ rows


@truth(empirical_fisher_diagonal)
def _empirical_diagonal(module: nn.Module, loss: Any, inputs: Any, targets: Tensor) -> Tensor:
    return _empirical_rows(module, loss, inputs, targets).square().sum(0)


def solve_with_scale(matrix: Tensor, right: Tensor) -> Truth:
    """The solution of a symmetric positive definite system, and the scale that its conditioning allows.

    The scale is the condition number times the largest entry of the solution: a relative perturbation of the matrix
    or the right-hand side by eps moves the solution by about eps times that. Where the matrix is not positive
    definite to rounding, the methods rightly return different vectors, and an infinite scale holds them to be
    finite and of the right shape only.
    """
    values, vectors = torch.linalg.eigh(matrix)
    size = len(values)
    largest = float(values.abs().max())
    kept = values.abs() > size * torch.finfo(torch.float64).eps * largest
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    solution = vectors @ (inverse * (vectors.T @ right))
    if not bool((values > 1e-3 * torch.finfo(torch.float32).eps * largest).all()):
        return Truth(solution, math.inf)
    condition = largest / float(values[0])
    return Truth(solution, condition * float(solution.abs().max()) or None)

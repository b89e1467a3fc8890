"""Solves with the damped Fisher matrix, and the natural-gradient step."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.curvature._jacobian import JacobianProductOperator
from hograd_core.curvature._kfac import kfac_of_model
from hograd_core.curvature._model import Inputs, Loss, Model, check_damping, check_model, check_vector
from hograd_core.curvature._precision import unbounded, widened
from hograd_core.curvature.fisher import diagonal_expectation, gram_of_scores, square_root_rows
from hograd_core.solvers._conjugate_gradient import conjugate_gradient

DAMPING = 1e-3


@operator(result="x", default="cg", order=2)
def inverse_fisher_vector_product(
    module: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Tensor,
    v: Tensor,
    damping: float = DAMPING,
    **how: Unpack[How],
) -> Tensor:
    """(F + damping I)^-1 v with the true Fisher matrix F, or an approximation of it.

    Args:
        module: the network, with at least one trainable parameter; not changed.
        loss: cross-entropy, squared error or binary cross-entropy with logits, of reduction mean or sum.
        inputs: a tensor, or a tuple of tensors passed positionally; batch first.
        targets: a tensor, batch first.
        v: vector of shape (P,), dtype and device of the parameters.
        damping: Tikhonov damping, > 0, since F is singular wherever P exceeds samples times outputs.

    Returns:
        A detached tensor of shape (P,). The relative error of the exact methods is about eps ‖F‖ / damping.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
        UnsupportedError: PyTorch has no formula or batching rule for a layer by this method.
    """
    model = check_model(module, loss, inputs, targets, per_sample=True)
    return to_method(model, check_vector(v, model), check_damping(damping, positive=True))


@operator(result="x", default="cg", order=2)
def natural_gradient_step(
    module: nn.Module, loss: Loss, inputs: Inputs, targets: Tensor, damping: float = DAMPING, **how: Unpack[How]
) -> Tensor:
    """The step -(F + damping I)^-1 g of natural-gradient descent (Amari 1998, eq. 2.6; Martens 2020, §4).

    g is the gradient of the batch loss and F the true Fisher matrix, or an approximation of it by the method.

    Args:
        module: the network, with at least one trainable parameter; not changed.
        loss: cross-entropy, squared error or binary cross-entropy with logits, of reduction mean or sum.
        inputs: a tensor, or a tuple of tensors passed positionally; batch first.
        targets: a tensor, batch first.
        damping: Tikhonov damping, > 0.

    Returns:
        A detached tensor of shape (P,), in the order of ``module.named_parameters()``; add it to the parameters.

    Raises:
        TypeError, ValueError: an argument is not of the kind asked for; the message names it.
        UnsupportedError: PyTorch has no formula or batching rule for a layer by this method.
    """
    return to_method(check_model(module, loss, inputs, targets, per_sample=True), check_damping(damping, positive=True))


def _damped_factor(matrix: Tensor, damping: float) -> Tensor:
    """Cholesky factor of matrix + damping I; the matrix is overwritten."""
    if not bool(matrix.isfinite().all()):
        raise FloatingPointError("module: its Fisher matrix holds values that are not finite; look at its outputs")
    matrix.diagonal().add_(damping)
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0:
        norm = float(torch.linalg.matrix_norm(matrix))
        raise ValueError(
            f"damping: got {damping}, too small for a Fisher matrix of norm {norm:.3g} in {matrix.dtype}; "
            "raise it, or compute in float64"
        )
    return factor


def by_dense(model: Model, v: Tensor, damping: float) -> Tensor:
    """Form F, factor it. Time: F and P³/3; memory: 2 P²."""
    matrix = gram_of_scores(model)
    step = torch.cholesky_solve(widened(v)[:, None], _damped_factor(matrix, damping))
    return step[:, 0].to(v.dtype)


def by_cg(
    model: Model,
    v: Tensor,
    damping: float,
    *,
    relative_tolerance: float | None = None,
    max_iterations: int | None = None,
) -> Tensor:
    """Conjugate gradients on F v, outputs' graph built once. Time: two backward passes an iteration; memory: theirs.

    Raises where the residual asked for is not reached in 10 P iterations; warns where ``max_iterations`` cut it short.
    """
    # The recurrence's residual falls below what the solution can attain, so a few eps asks for all there is.
    goal = 4 * torch.finfo(v.dtype).eps if relative_tolerance is None else relative_tolerance
    # Rounding delays the end where damping is small; only a system beyond the dtype's precision takes 10 P.
    limit = 10 * len(v) if max_iterations is None else max_iterations
    with JacobianProductOperator(model, damping=damping) as fisher:
        result = conjugate_gradient(fisher, v, relative_tolerance=goal, max_iterations=limit)
    if not result.converged:
        reached = result.residuals[-1] / result.residuals[0]
        message = (
            f"conjugate gradients stopped ({result.status}) after {result.iterations} iterations at a relative "
            f"residual of {reached:.2g}, {goal:.2g} was asked for; raise damping or max_iterations, or use float64 or "
            "method='dense'"
        )
        if max_iterations is None:
            raise FloatingPointError(f"damping: got {damping}; {message}")
        warnings.warn(f"max_iterations: got {max_iterations}; {message}", RuntimeWarning, stacklevel=4)
    return result.step.to(v.dtype)


def by_woodbury(model: Model, v: Tensor, damping: float, *, chunk_size: int | None = None) -> Tensor:
    """Solve among the M = samples x outcomes rows A of F = A^T A: (v - A^T (A A^T + damping I)^-1 A v) / damping.

    Time: K backward passes a sample, M² P and M³/3: the way where P far exceeds M. Memory: M P + M².
    """
    rows, right = widened(square_root_rows(model, chunk_size)), widened(v)
    inner = torch.cholesky_solve((rows @ right)[:, None], _damped_factor(rows @ rows.T, damping))[:, 0]
    return ((right - rows.T @ inner) / damping).to(v.dtype)


def by_kfac(model: Model, v: Tensor, damping: float, *, form: str = "exact", fisher: str = "expectation") -> Tensor:
    """Kronecker factors in F's place: linear in P for given layer widths, no product with F at all."""
    return kfac_of_model(model, fisher=fisher).inverse(damping, form).matvec(v)


def by_diagonal(model: Model, v: Tensor, damping: float) -> Tensor:
    """The diagonal of F in its place."""
    diagonal: Tensor = diagonal_expectation(model)
    return v / (diagonal + damping)


_WAYS: tuple[tuple[str, Callable[..., Tensor], str, str, bool], ...] = (
    ("cg", by_cg, "reverse over reverse, a product an iteration", "Martens 2010; Schraudolph 2002, §4.2", True),
    ("dense", by_dense, "reverse, vectorised over samples and outcomes", "Amari 1998, eq. 2.6; Cholesky", True),
    (
        "woodbury",
        by_woodbury,
        "reverse, vectorised over samples and outcomes",
        "Ren & Goldfarb 2019, eq. 8 (Sherman-Morrison-Woodbury)",
        True,
    ),
    (
        "kfac",
        by_kfac,
        "reverse, an outcome at a time, to the layers' outputs",
        "Martens & Grosse 2015, §6.3; Grosse & Martens 2016, §4.2",
        False,
    ),
    ("diagonal", by_diagonal, "reverse, vectorised over samples and outcomes", "Amari 1998 with diag F", False),
)


def _declare(name: str, way: Callable[..., Tensor], mode: str, source: str, exact: bool) -> None:
    tolerance = None if exact else unbounded
    # F holds first derivatives alone: products by two reverse sweeps differentiate in cotangents, which enter linearly.
    declared: dict[str, Any] = {"mode": mode, "source": source, "exact": exact, "tolerance": tolerance}
    declared["amounts_to"] = (("double_backward", 1),)
    method(inverse_fisher_vector_product, name, **declared)(way)

    def step(model: Model, damping: float, **options: Any) -> Tensor:
        return -way(model, model.gradient(), damping, **options)

    step.__doc__ = f"``inverse_fisher_vector_product[{name}]`` of the gradient, negated. {way.__doc__}"
    _copy_options(step, way)
    method(natural_gradient_step, name, **declared)(step)


def _copy_options(step: Callable[..., Tensor], way: Callable[..., Tensor]) -> None:
    # The registry reads a method's options off its signature.
    given = inspect.signature(way, eval_str=True).parameters.values()
    kept = [p for p in given if p.name != "v"]
    step.__signature__ = inspect.Signature(kept, return_annotation=Tensor)  # type: ignore[attr-defined]


for _way in _WAYS:
    _declare(*_way)

"""Differential operators of u: ℝᵈ → ℝ over a batch of points, and residual losses of differential equations.

Physics-informed networks (Raissi, Perdikaris & Karniadakis 2019) need Laplacians, bi-Laplacians and mixed partials of
a network in its inputs, and then the gradient of a loss of these in its parameters. The operators return detached
values; :func:`field_derivatives` and :func:`residual` compute the same with a graph to train through.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hograd_core._entrance import kept, released
from hograd_core._how import How, Unpack
from hograd_core._registry import Operator, method, operator, to_method
from hograd_core.applications._calls import plain_call, recording, watched_call
from hograd_core.applications._collapsed import summed, summed_partials
from hograd_core.applications._equations import Equation, beam, burgers, heat, kuramoto_sivashinsky
from hograd_core.applications._estimates import (
    FieldEstimate,
    coordinates,
    gaussian,
    gaussian_bilaplacian,
    hutchinson_laplacian,
    rademacher,
    sampled_laplacian,
)
from hograd_core.applications._fields import check_field, without_graph
from hograd_core.applications._forward_laplacian import summed_by_groups
from hograd_core.applications._interpolation import interpolated_rows
from hograd_core.applications._modules import Parameters, called_with, check_module, gradient_of, trainable
from hograd_core.applications._partials import KERNELS, Field, Kernel, amounts, checked_generator, deepest
from hograd_core.applications._polarisation import Index
from hograd_core.curvature._precision import sampling, sampling_fourth_powers
from hograd_core.hazards import guarded, narrowed

__all__ = [
    "Equation", "FieldEstimate", "ResidualLoss", "beam", "bilaplacian", "burgers", "field_derivatives",
    "gaussian_bilaplacian", "heat", "hutchinson_laplacian", "kuramoto_sivashinsky", "laplacian",
    "partial_derivatives", "residual", "residual_loss", "sampled_laplacian",
]  # fmt: skip


class ResidualLoss(NamedTuple):
    """Mean squared residual and its gradient in the parameters of u, both detached.

    Attributes:
        value: 0-dimensional.
        gradient: by parameter name; zeros where the loss does not depend on a parameter.
    """

    value: Tensor
    gradient: Parameters


def _check_indices(indices: Any, dimension: int) -> list[Index]:
    if not isinstance(indices, list | tuple) or not indices or not all(isinstance(i, list | tuple) for i in indices):
        raise TypeError(
            f"indices: got {indices!r}, expected a non-empty list of tuples of coordinates, as [(0,), (0, 1)]"
        )
    for index in indices:
        for c in index:
            if isinstance(c, bool) or not isinstance(c, int) or not 0 <= c < dimension:
                raise ValueError(
                    f"indices: got coordinate {c!r} in {index!r}, expected an int from 0 to {dimension - 1}"
                )
    return [tuple(index) for index in indices]


def _check_equation(equation: Any, points: Tensor) -> None:
    if not isinstance(equation, Equation):
        raise TypeError(f"equation: got {type(equation).__name__}, expected an Equation such as heat()")
    _check_indices(equation.indices, points.shape[1])


@operator(result="(len(indices), N)", default="nested_reverse", order=4)
def partial_derivatives(u: Field, points: Tensor, indices: Sequence[Index], **how: Unpack[How]) -> Tensor:
    """Mixed partial derivatives of u at every point, of any orders, several at once.

    Args:
        u: (N, d) -> (N,) or (N, 1), each value depending on its own point only.
        points: shape (N, d), a real floating dtype.
        indices: tuples of coordinates: () is u, (0,) is ∂u/∂x₀, (0, 0, 1) is ∂³u/∂x₀²∂x₁; their order is free.

    Returns:
        Shape (len(indices), N), detached, dtype and device of u's values; :func:`field_derivatives` keeps the graph.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: u's result does not pair with the points, or an index is out of range.
        UnsupportedError: PyTorch has no formula for a step of u by this method.
    """
    field, x = check_field(u, points)
    return to_method(field, x, _check_indices(indices, x.shape[1]))


@operator(result="(N,)", default="nested_reverse", order=2)
def laplacian(u: Field, points: Tensor, **how: Unpack[How]) -> Tensor:
    """Δu = Σ_i ∂²u/∂x_i² at every point.

    Args:
        u: (N, d) -> (N,) or (N, 1), each value depending on its own point only.
        points: shape (N, d), a real floating dtype.

    Returns:
        Shape (N,), detached; to train through it, sum :func:`field_derivatives`.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: u's result does not pair with the points.
        UnsupportedError: PyTorch has no formula for a step of u by this method.
    """
    field, x = check_field(u, points)
    return to_method(field, x, [(i, i) for i in range(x.shape[1])])


@operator(result="(N,)", default="nested_reverse", order=4)
def bilaplacian(u: Field, points: Tensor, **how: Unpack[How]) -> Tensor:
    """Δ²u = Σ_ij ∂⁴u/∂x_i²∂x_j² at every point.

    Args:
        u: (N, d) -> (N,) or (N, 1), each value depending on its own point only.
        points: shape (N, d), a real floating dtype.

    Returns:
        Shape (N,), detached; to train through it, sum :func:`field_derivatives`.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: u's result does not pair with the points.
        UnsupportedError: PyTorch has no formula for a step of u by this method.
    """
    field, x = check_field(u, points)
    d = x.shape[1]
    return to_method(field, x, [(i, i, j, j) for i in range(d) for j in range(i, d)])


@operator(result="value, parameter gradient", default="nested_reverse", order=4)
def residual_loss(u: nn.Module, points: Tensor, equation: Equation, **how: Unpack[How]) -> ResidualLoss:
    """mean_i r(x_i)² of the residual of a differential equation, and its gradient in the parameters of u.

    Args:
        u: a network (N, d) -> (N,) or (N, 1).
        points: shape (N, d), a real floating dtype.
        equation: ``heat()``, ``burgers()``, ``kuramoto_sivashinsky()``, ``beam()``, or another :class:`Equation`.

    Returns:
        A :class:`ResidualLoss`. To train inside a larger loss use :func:`residual`, which keeps the graph.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: u's result does not pair with the points, or the equation asks for a coordinate they lack.
        UnsupportedError: PyTorch has no formula for a step of u by this method.
    """
    _, x = check_field(u, points)
    _check_equation(equation, x)
    return to_method(check_module(u, "u"), x, equation)


@recording
def field_derivatives(
    u: Field, points: Tensor, indices: Sequence[Index], *, method: str = "nested_reverse", **options: Any
) -> Tensor:
    """Partial derivatives as ``partial_derivatives`` gives them, with a graph to the parameters of u.

    Args:
        u: (N, d) -> (N,) or (N, 1).
        points: shape (N, d).
        indices: tuples of coordinates.
        method: "nested_reverse", "forward_over_reverse", "nested_forward", "taylor" or "interpolated_taylor".
        **options: keyword options of that method.

    Returns:
        Shape (len(indices), N); recorded for autograd where gradients are enabled.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: u's result does not pair with the points, an index is out of range, or there is no such method.
    """
    field, x = check_field(u, points)
    checked = _check_indices(indices, x.shape[1])
    kernels = {"interpolated_taylor": interpolated_rows, **{name: kernel for name, (kernel, *_) in KERNELS.items()}}
    if method not in kernels:
        raise ValueError(f"method: got {method!r}, expected one of {', '.join(sorted(kernels))}")
    order = deepest(checked)
    with guarded("field_derivatives", *amounts(method, order), *amounts(method, order, trained=True)):
        result: Tensor = kernels[method](watched_call(field), x, checked, **options)
    return result


@recording
def residual(u: Field, points: Tensor, equation: Equation, *, method: str = "nested_reverse") -> Tensor:
    """The residual r(x_i) of a differential equation at every point.

    Args:
        u: (N, d) -> (N,) or (N, 1).
        points: shape (N, d).
        equation: which one.
        method: a method of ``partial_derivatives``.

    Returns:
        Shape (N,); recorded for autograd where gradients are enabled.
    """
    _, x = check_field(u, points)
    _check_equation(equation, x)
    rows = field_derivatives(u, x, equation.indices, method=method)
    return plain_call(equation.residual)(x, *rows.unbind(0))


def _pair_weights(indices: Sequence[Index]) -> list[float]:
    """Each pair i < j stands for (i, j) and (j, i)."""
    return [1.0 if index[0] == index[-1] else 2.0 for index in indices]


def _register(name: str, kernel: Kernel, mode: str, source: str, functorch: bool) -> None:
    """Make a kernel a method of the four operators."""
    declared: dict[str, Any] = {"mode": mode, "source": source, "functorch": functorch}
    declared["in_parts"] = "chunk_size" in inspect.signature(kernel).parameters

    @functools.wraps(kernel)
    def rows_of(u: Field, points: Tensor, indices: Sequence[Index], **options: Any) -> Tensor:
        with narrowed(*amounts(name, deepest(indices))):
            rows: Tensor = released(kernel(watched_call(without_graph(u)), points, indices, kept(), **options))
        return rows

    @functools.wraps(kernel)
    def summed(u: Field, points: Tensor, indices: Sequence[Index], **options: Any) -> Tensor:
        return rows_of(u, points, indices, **options).sum(0)

    @functools.wraps(kernel)
    def weighted(u: Field, points: Tensor, indices: Sequence[Index], **options: Any) -> Tensor:
        rows = rows_of(u, points, indices, **options)
        return torch.tensor(_pair_weights(indices), dtype=rows.dtype, device=rows.device) @ rows

    def loss(u: nn.Module, points: Tensor, equation: Equation) -> ResidualLoss:
        parameters = trainable(u)
        with narrowed(*amounts(name, deepest(equation.indices), trained=True)):
            rows = kernel(watched_call(called_with(u, parameters)), points, equation.indices)
            value = plain_call(equation.residual)(points, *rows.unbind(0)).square().mean()
            gradient = gradient_of(value, parameters, create_graph=kept())
        return ResidualLoss(released(value), gradient)

    loss.__doc__ = kernel.__doc__
    # The orders are those of the suite's problems; at a call the indices say (``narrowed``).
    method(partial_derivatives, name, amounts_to=amounts(name, 4), **declared)(rows_of)
    method(laplacian, name, amounts_to=amounts(name, 2), **declared)(summed)
    method(bilaplacian, name, amounts_to=amounts(name, 4), **declared)(weighted)
    # Its graph is taken by torch.autograd, whatever the derivatives inside use.
    over = {"mode": f"reverse over {mode}", "amounts_to": amounts(name, 4, trained=True)}
    method(residual_loss, name, **{**declared, **over})(loss)


for _name, (_kernel, _mode, _source, _functorch) in KERNELS.items():
    _register(_name, _kernel, _mode, _source, _functorch)


@method(
    partial_derivatives, "interpolated_taylor", mode="Taylor", amounts_to=amounts("interpolated_taylor", 4),
    in_parts=True, source="Griewank, Utke & Walther 2000 (interpolation from integer directions of one sum)",
)  # fmt: skip
def interpolated_taylor(
    u: Field, points: Tensor, indices: Sequence[Index], *, chunk_size: int | None = None
) -> Tensor:  # fmt: skip
    """Power series along directions that all derivatives share: binom(d + k − 1, k) for all of order k and below.

    Never more directions than ``taylor``, which polarises: of all second derivatives d (d + 1) / 2 instead of d².
    """
    with narrowed(*amounts("interpolated_taylor", deepest(indices))):
        rows = interpolated_rows(watched_call(without_graph(u)), points, indices, kept(), chunk_size=chunk_size)
    found: Tensor = released(rows)
    return found


_COLLAPSED = "Dangel et al. 2025, §3 (collapsed Taylor mode)"


@method(laplacian, "collapsed_taylor", mode="Taylor, collapsed", source=_COLLAPSED, amounts_to=amounts("taylor", 2))
def collapsed_laplacian(u: Field, points: Tensor, indices: Sequence[Index]) -> Tensor:
    """Series of degree 2 along all coordinates at once, of whose highest coefficients the sum is propagated."""
    with narrowed(*amounts("taylor", 2)):
        found: Tensor = released(summed_partials(u, points, indices, [1.0] * len(indices)))
    return found


@method(
    laplacian, "forward_laplacian", mode="Taylor, collapsed, a direction for each group of uncoupled coordinates",
    source="Li et al. 2024 (Forward Laplacian; Jacobians by element), with groups cf. Curtis, Powell & Reid 1974",
    amounts_to=amounts("taylor", 2),
)  # fmt: skip
def forward_laplacian(u: Field, points: Tensor, indices: Sequence[Index]) -> Tensor:
    """Value, first derivatives and Laplacian in one pass; coordinates that no step of u couples share a derivative.

    Which they are is found by following two points through u. Cost, for linear maps of u: 2 + groups products (blocks
    of m coordinates: m, a chain: 2); of a prepared kernel 2 + k where each element depends on k groups at the most.
    """
    with narrowed(*amounts("taylor", 2)):
        found: Tensor = released(summed_by_groups(u, points))
    return found


@method(bilaplacian, "collapsed_taylor", mode="Taylor, collapsed", source=_COLLAPSED, amounts_to=amounts("taylor", 4))
def collapsed_bilaplacian(u: Field, points: Tensor, indices: Sequence[Index]) -> Tensor:
    """Series of degree 4 along e_i and e_i ± e_j, of whose highest coefficients a weighted sum is propagated."""
    with narrowed(*amounts("taylor", 4)):
        found: Tensor = released(summed_partials(u, points, indices, _pair_weights(indices)))
    return found


def _stochastic(
    record: Operator, name: str, estimator: Any, draw: Any, factor: Callable[[int], float], source: str,
    tolerance: Callable[[float, int], float] = sampling,
) -> None:  # fmt: skip
    """Make the value of an estimator a method, collapsed; the estimator itself gives the standard error too."""
    order = record.order or 2

    def value(
        u: Field,
        points: Tensor,
        indices: Sequence[Index],
        *,
        probes: int = 16,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        directions = draw(points, probes, checked_generator(probes, seed, generator))
        with narrowed(*amounts("taylor", order)):
            weights = [factor(points.shape[1]) / probes] * probes
            found: Tensor = released(summed(u, points, directions, order, weights))
        return found

    value.__doc__ = estimator.__doc__
    method(
        record, name, mode="Taylor, random directions", source=source, exact=False, tolerance=tolerance,
        amounts_to=amounts("taylor", order),
    )(value)  # fmt: skip


_STDE = "Shi et al. 2024 (stochastic Taylor derivative estimator)"
_stochastic(
    laplacian, "hutchinson", hutchinson_laplacian, rademacher, lambda d: 1.0,
    "Hutchinson 1990, §2, with Rademacher probes",
)  # fmt: skip
_stochastic(laplacian, "sampled_coordinates", sampled_laplacian, coordinates, float, _STDE)
_stochastic(
    bilaplacian, "gaussian_probes", gaussian_bilaplacian, gaussian, lambda d: 1 / 3, _STDE, sampling_fourth_powers
)

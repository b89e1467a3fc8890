"""The Hessian's trace (the Laplacian of f): exact ways, and stochastic estimates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import Function, ScalarFunction, T, check_point, scalar_function
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.curvature import _estimators
from hograd_core.curvature._precision import sampling
from hograd_core.curvature.diagonal import columns, forward_over_forward
from hograd_core.curvature.linear_operator import LINEARISED, HessianOperator


@operator(result="scalar", linear=True, default="columns", order=2)
def hessian_trace(f: Function[T], x: T, **how: Unpack[How]) -> Tensor:
    """The trace of the Hessian of f at x, sum of d²f/dx_i².

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.

    Returns:
        A detached 0-dimensional tensor in the dtype and on the device of x. The stochastic methods return the
        estimate alone; ``hutchinson_trace``, ``hutch_plus_plus`` and ``xtrace`` on a ``HessianOperator`` give its
        standard error too.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional.
    """
    return to_method(scalar_function(f), check_point(x))


@method(
    hessian_trace,
    "columns",
    mode="reverse over reverse, one product a column",
    source="Pearlmutter 1994, §3, with unit vectors; the gradient's graph built once",
)
def trace_columns(f: ScalarFunction, x: Tensor, *, preparation: Any = "eager") -> Tensor:
    """Sum of the exact diagonal. Time: n products; memory: the gradient's graph and one product."""
    diagonal: Tensor = columns(f, x, preparation=preparation)
    return diagonal.sum()


@method(
    hessian_trace,
    "forward_over_forward",
    mode="forward over forward, vectorised over the coordinates",
    source="Griewank & Walther 2008, §13.2; torch.func.jvp",
    functorch=True,
    in_parts=True,
    amounts_to=(("nested_jvp", 2),),
)
def trace_forward(f: ScalarFunction, x: Tensor, *, chunk_size: int | None = None) -> Tensor:
    """Sum of the second directional derivatives along the coordinates, without a tape."""
    diagonal: Tensor = forward_over_forward(f, x, chunk_size=chunk_size)
    return diagonal.sum()


@method(
    hessian_trace,
    "hutchinson",
    mode="reverse over reverse, one product a probe",
    source="Hutchinson 1990, §2, with Rademacher probes",
    exact=False,
    tolerance=sampling,
)
def hutchinson(
    f: ScalarFunction,
    x: Tensor,
    *,
    probes: int = 32,
    distribution: str = "rademacher",
    seed: int | None = None,
    generator: torch.Generator | None = None,
    hvp_method: str = LINEARISED,
    preparation: Any = "eager",
) -> Tensor:
    """Mean of z^T H z. Unbiased; standard error sqrt(2 sum over i != j of H_ij² / probes)."""
    with HessianOperator(f, x, method=hvp_method, preparation=preparation) as hessian:
        estimate = _estimators.hutchinson_trace(
            hessian, probes=probes, distribution=distribution, seed=seed, generator=generator
        )
    return estimate.value.to(x.dtype)


@method(
    hessian_trace,
    "hutch_plus_plus",
    mode="reverse over reverse, one product a probe",
    source="Meyer, Musco, Musco & Woodruff 2021, algorithm 1",
    exact=False,
    tolerance=sampling,
)
def hutch_plus_plus(
    f: ScalarFunction,
    x: Tensor,
    *,
    products: int = 30,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    hvp_method: str = LINEARISED,
    preparation: Any = "eager",
) -> Tensor:
    """Exact on a random sketch of H's range, Hutchinson on the rest; unbiased."""
    with HessianOperator(f, x, method=hvp_method, preparation=preparation) as hessian:
        estimate = _estimators.hutch_plus_plus(hessian, products=products, seed=seed, generator=generator)
    return estimate.value.to(x.dtype)


@method(
    hessian_trace,
    "xtrace",
    mode="reverse over reverse, one product a probe",
    source="Epperly, Tropp & Webber 2024, algorithm 1.1 and §2.3",
    exact=False,
    tolerance=sampling,
)
def xtrace(
    f: ScalarFunction,
    x: Tensor,
    *,
    products: int = 30,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    hvp_method: str = LINEARISED,
    preparation: Any = "eager",
) -> Tensor:
    """Hutch++ with every probe used for both purposes, by leaving one out at a time; unbiased."""
    with HessianOperator(f, x, method=hvp_method, preparation=preparation) as hessian:
        estimate = _estimators.xtrace(hessian, products=products, seed=seed, generator=generator)
    return estimate.value.to(x.dtype)

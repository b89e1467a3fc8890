"""The Hessian's diagonal: exact ways, and the stochastic estimate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import Function, ScalarFunction, T, check_chunk_size, check_point, scalar_function
from hograd_core._entrance import kept, released
from hograd_core._forward import jvp
from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.arguments import in_chunks
from hograd_core.curvature._dense import unit_rows, unit_vector
from hograd_core.curvature._estimators import stochastic_diagonal
from hograd_core.curvature._layer_hessian import layer_diagonal
from hograd_core.curvature._precision import sampling
from hograd_core.curvature.linear_operator import LINEARISED, HessianOperator
from hograd_core.derivatives._autograd import refuse_in_transform
from hograd_core.derivatives.derivative_tensor import derivative_tensor


@operator(result="x", linear=True, default="columns", order=2)
def hessian_diagonal(f: Function[T], x: T, **how: Unpack[How]) -> T:
    """The second derivatives d²f/dx_i² at x: the diagonal of the Hessian, n numbers.

    Reverse mode has no shortcut to it: for a general f it takes n Hessian-vector products (Martens, Sutskever &
    Swersky 2012, §2), which is why estimates exist.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the point, any shape, a real floating dtype, any device.

    Returns:
        A detached tensor with the shape, dtype and device of x.

    Raises:
        TypeError: an argument is not of the kind asked for; the message names it.
        ValueError: f's result is not 0-dimensional.
    """
    return to_method(scalar_function(f), check_point(x))


@method(
    hessian_diagonal,
    "columns",
    mode="reverse over reverse, one product a column",
    source="Pearlmutter 1994, §3, with unit vectors; the gradient's graph built once",
)
def columns(f: ScalarFunction, x: Tensor, *, preparation: Any = "eager") -> Tensor:
    """e_i^T H e_i for every i. Time: n products; memory: the gradient's graph and one product."""
    diagonal = torch.empty(x.numel(), dtype=x.dtype, device=x.device)
    with HessianOperator(f, x, preparation=preparation) as hessian:
        for i in range(hessian.n):
            diagonal[i] = hessian.matvec(unit_vector(hessian, i))[i]
    return diagonal.reshape(x.shape)


@method(
    hessian_diagonal,
    "forward_over_forward",
    mode="forward over forward, vectorised over the coordinates",
    source="Griewank & Walther 2008, §13.2 (univariate second directional derivatives); torch.func.jvp",
    functorch=True,
    in_parts=True,
    amounts_to=(("nested_jvp", 2),),
)
def forward_over_forward(f: ScalarFunction, x: Tensor, *, chunk_size: int | None = None) -> Tensor:
    """d²/dt² f(x + t e_i) for every i, without any tape.

    Time: n second directional derivatives, in batches of ``chunk_size`` (default: all). Memory: a batch's
    three copies of the largest intermediate of f.
    """

    def second(direction: Tensor) -> Tensor:
        def along(point: Tensor) -> Tensor:
            slope: Tensor = jvp(f, (point,), (direction,))[1]
            return slope

        curvature: Tensor = jvp(along, (x,), (direction,))[1]
        return curvature

    def piece(part: slice) -> Tensor:
        found: Tensor = torch.func.vmap(second)(unit_rows(part, x).reshape(-1, *x.shape))
        return found

    diagonal: Tensor = released(in_chunks(piece, x.numel(), check_chunk_size(chunk_size)))
    # PyTorch's nested tangents of a Python number times a 0-dimensional tensor come out in float64.
    return diagonal.to(x.dtype).reshape(x.shape)


@method(
    hessian_diagonal,
    "layers",
    mode="reverse over reverse, to the outputs of layers, sample by sample",
    source="Mizutani & Dreyfus 2008, §2; Dangel, Kunstner & Hennig 2020 (BackPACK's DiagHessian)",
    amounts_to=(("double_backward", 2), ("batched_rows", 2)),
)
def layers(f: ScalarFunction, x: Tensor) -> Tensor:
    """By the Hessians of samples at the outputs of layers, for weights of matrix products and convolutions.

    They are found by following one run of f: f has to be a sum over samples from where a weight enters, linearly and
    once. Of other elements of x each takes a product, as by ``columns``. Time: for a layer of d outputs a batch of d
    backward passes to the layer before; memory: N d² numbers a layer, N samples.
    """
    if kept():
        return columns(f, x)  # type: ignore[no-any-return]
    refuse_in_transform("a run of f is followed on plain tensors")
    return layer_diagonal(f, x)[0].reshape(x.shape)


@method(
    hessian_diagonal,
    "full",
    mode="the full Hessian, then its diagonal",
    source="Dangel, Kunstner & Hennig 2020 (what BackPACK's DiagHessian avoids); derivative_tensor of order 2",
)
def full(f: ScalarFunction, x: Tensor, *, hessian_method: str | None = None) -> Tensor:
    """Form the n x n matrix by ``derivative_tensor`` and read its diagonal. Memory: n² numbers."""
    matrix: Tensor = derivative_tensor(f, x, 2, method=hessian_method or "rows")
    return matrix.reshape(x.numel(), x.numel()).diagonal().clone().reshape(x.shape)


@method(
    hessian_diagonal,
    "hutchinson",
    mode="reverse over reverse, one product a probe",
    source="Bekas, Kokiopoulou & Saad 2007, eq. 2, with Rademacher probes",
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
    """Mean of z * Hz over ``probes`` random sign vectors z.

    Unbiased; standard error of entry i: sqrt(sum over j != i of H_ij² / probes). ``stochastic_diagonal`` gives the
    estimated standard error with the value.
    """
    with HessianOperator(f, x, method=hvp_method, preparation=preparation) as hessian:
        estimate = stochastic_diagonal(
            hessian, probes=probes, distribution=distribution, seed=seed, generator=generator
        )
    return estimate.value.to(x.dtype).reshape(x.shape)

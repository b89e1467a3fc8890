"""What peers compute and hograd offers as plain functions: operators found by name, listed nowhere.

A minimum stops at a tolerance of its own, and KFAC approximates; each is a quantity of its own here, held against its
own definition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hograd_core._how import How, Unpack
from hograd_core._registry import method, operator, to_method
from hograd_core.curvature import kfac
from hograd_core.reference import truth
from hograd_core.solvers import minimize_newton

GRADIENT_TOLERANCE = 1e-5
MINIMUM_TOLERANCE = 1e-5
"""How far from the minimum, relative to its largest entry, a solver may stop."""


@operator(result="x", default="newton_line_search", order=2, listed=False)
def local_minimum(f: Any, x: Tensor, known_minimum: Tensor, **how: Unpack[How]) -> Tensor:
    """The minimum of f next to x.

    Args:
        f: function of a tensor shaped like x, returning a 0-dimensional tensor.
        x: the start.
        known_minimum: the minimum on paper, which methods do not see: what they find is held against it.

    Returns:
        A tensor shaped like x.
    """
    return to_method(f, x)


@truth(local_minimum)
def _on_paper(f: Any, x: Tensor, known_minimum: Tensor) -> Tensor:
    return known_minimum


def _newton(globalisation: str) -> None:
    @method(
        local_minimum,
        f"newton_{globalisation}",
        mode="reverse over reverse",
        source=f"minimize_newton, stops at |g| <= {GRADIENT_TOLERANCE:g}",
        tolerance=lambda eps, order: MINIMUM_TOLERANCE,
    )
    def minimise(f: Any, x: Tensor, *, preparation: Any = "eager") -> Tensor:
        how = {"globalisation": globalisation, "preparation": preparation}
        found: Tensor = minimize_newton(f, x, gradient_tolerance=GRADIENT_TOLERANCE, **how).x
        return found


_newton("line_search")
_newton("trust_region")


@operator(result="x", default="expectation", order=2, listed=False)
def kfac_vector_product(
    module: nn.Module, loss: Any, inputs: Tensor, targets: Tensor, v: Tensor, **how: Unpack[How]
) -> Tensor:
    """The Kronecker-factored Fisher matrix times v: the factors built from the batch and applied once.

    Args:
        module: as ``hograd_core.curvature.kfac`` takes it.
        loss: likewise.
        inputs: likewise.
        targets: likewise.
        v: vector of shape (P,).

    Returns:
        A tensor of shape (P,).
    """
    return to_method(module, loss, inputs, targets, v)


@method(kfac_vector_product, "expectation", mode="reverse, an outcome at a time", source="hograd_core.curvature.kfac")
def expectation(module: nn.Module, loss: Any, inputs: Tensor, targets: Tensor, v: Tensor) -> Tensor:
    """Exact over the outcomes."""
    return kfac(module, loss, inputs, targets).matvec(v)


@truth(kfac_vector_product)
def _kfac(module: nn.Module, loss: Any, inputs: Tensor, targets: Tensor, v: Tensor) -> Tensor:
    """The definition, in loops, for a Sequential with biases under mean cross-entropy; shares no code with the kernels.

    Martens & Grosse 2015, eq. 4, with the bias as a last column of the weight: A is the mean over samples of
    outer products of a layer's input (1 appended), G the mean over samples and the expectation over the model's
    own labels of outer products of the gradients at the layer's output; block V -> G V A.
    """
    if loss is not nn.functional.cross_entropy:
        raise ValueError("loss: the definition of KFAC is written here for mean cross-entropy only")
    layers = list(module.children())
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    received = [torch.zeros(la.in_features + 1, la.in_features + 1, dtype=v.dtype) for la in linear]
    backward = [torch.zeros(la.out_features, la.out_features, dtype=v.dtype) for la in linear]
    for sample in inputs:
        hidden = sample
        outputs: list[Tensor] = []
        for layer in layers:
            if isinstance(layer, nn.Linear):
                column = torch.cat([hidden.detach(), hidden.new_ones(1)])
                received[len(outputs)] += torch.outer(column, column) / len(inputs)
            hidden = layer(hidden)
            if isinstance(layer, nn.Linear):
                outputs.append(hidden)
        log_probabilities = hidden.log_softmax(0)
        for log_probability in log_probabilities:
            weight = log_probability.detach().exp() / len(inputs)
            gradients = torch.autograd.grad(-log_probability, outputs, retain_graph=True)
            for total, gradient in zip(backward, gradients, strict=True):
                total += weight * torch.outer(gradient, gradient)
    pieces = iter(torch.split(v, [p.numel() for p in module.parameters()]))
    result = []
    for layer, a, g in zip(linear, received, backward, strict=True):
        weight, bias = next(pieces).reshape(layer.weight.shape), next(pieces)
        product = g @ torch.cat([weight, bias[:, None]], 1) @ a
        result += [product[:, :-1].reshape(-1), product[:, -1]]
    return torch.cat(result)

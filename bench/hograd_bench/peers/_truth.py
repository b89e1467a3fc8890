"""What each contest's results are held against: float64, at exactly the rounded point that the contestants see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

import hograd_core
from hograd_bench import problems
from hograd_bench.peers._contract import Contest, value_of
from hograd_core import reference

MINIMISERS: Mapping[str, Callable[[Tensor], Tensor]] = {"rosenbrock": torch.ones_like}
"""Problem -> its minimiser next to the start, known on paper."""

MINIMISER_TOLERANCE = 1e-5
"""How far from the minimiser, relative to its largest entry, a solver may stop."""


@dataclass(frozen=True)
class Standard:
    """What results of a contest are held against.

    Attributes:
        value: the true result, flat, float64.
        scale: what errors are relative to.
        tolerance: relative error above which a result is wrong.
        function: the value that shows two writings of the problem to be one function.
        function_tolerance: how far that value may differ, relatively.
    """

    value: Tensor
    scale: float
    tolerance: float
    function: float
    function_tolerance: float

    def error(self, result: Tensor) -> float:
        """Relative error of a flat float64 result in the maximum norm; infinite where it is of another size."""
        if result.shape != self.value.shape or not bool(result.isfinite().all()):
            return float("inf")
        return float((result - self.value).abs().max()) / self.scale

    def function_error(self, value: float) -> float:
        """Relative difference of a peer's value of the function."""
        return abs(value - self.function) / max(abs(self.function), 1e-30)


def standard(contest: Contest) -> Standard:
    """The truth of a contest; slow by design.

    Raises:
        ValueError: the operator, or the problem's minimiser, is not known.
        TruthError: two routes to the value disagree.
    """
    dtype = getattr(torch, contest.dtype)
    eps = torch.finfo(dtype).eps
    instance = problems.get(contest.problem).instance(contest.spec, dtype, precise=True)
    known: dict[str, Any] = {"f": instance.f, "x": instance.x, "v": instance.v, **instance.extras}
    scale: float | None = None
    if contest.operator == "minimize":
        if contest.problem not in MINIMISERS:
            raise ValueError(f"problem: the minimiser of {contest.problem!r} is not known; add it to MINIMISERS")
        value, tolerance = MINIMISERS[contest.problem](instance.x), MINIMISER_TOLERANCE
    elif contest.operator == "kfac":
        value, tolerance = kfac_product(known["module"], known["inputs"], known["v"]), 64 * 16 * eps
    else:
        operator, fixed = hograd_core.resolve(contest.operator)
        order = operator.order if operator.order is not None else fixed if fixed is not None else contest.order
        arguments = tuple(known[name] for name in operator.inputs)
        truth = reference.true_value(contest.operator, *arguments, order=order if operator.takes_order else None)
        value, scale = truth.value, truth.scale
        # The widest that an exact method of hograd is allowed holds for all.
        exact = [m for m in operator.methods.values() if m.exact and m.supports(order)]
        tolerance = max(reference.tolerance(method, dtype, order) for method in exact)
    flat = torch.cat([torch.as_tensor(leaf, dtype=torch.float64).reshape(-1) for leaf in _pytree.tree_leaves(value)])
    return Standard(flat, scale or float(flat.abs().max()) or 1.0, tolerance, value_of(instance), 64 * eps)


def kfac_product(module: nn.Module, inputs: Tensor, v: Tensor) -> Tensor:
    """The Kronecker-factored Fisher of a Sequential under mean cross-entropy, times v: the definition, in loops.

    Martens & Grosse 2015, eq. 4, with the bias as a last column of the weight: A is the mean over samples of
    outer products of a layer's input (1 appended), G the mean over samples and the expectation over the model's
    own labels of outer products of the gradients at the layer's output; block V -> G V A. Shares no code with
    ``hograd_core.curvature``.

    Args:
        module: a Sequential whose Linear layers all have a bias.
        inputs: (N, features).
        v: (P,), in the order of ``module.parameters()``.

    Returns:
        (P,), float64.
    """
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

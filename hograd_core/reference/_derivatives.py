"""The derivatives of a scalar function, entry by entry, in float64 on the CPU."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hograd_core._differences import differenced

ScalarFunction = Callable[[Tensor], Tensor]

# Sweeps over the tape that an entry-by-entry product may take; beyond, a verified chain.
_SWEEPS = 100
# Entries of a chain that are recomputed, and the relative disagreement that float64 rounding may cause.
_SAMPLES = 3
_AGREEMENT = 1e-8
# Steps of the differences; the first that agrees is enough, since a kink of f may lie within a large one.
_STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
_SLOPE_AGREEMENT = 1e-5


class TruthError(RuntimeError):
    """Two independent routes to the reference value disagree; the message says which and what it may mean.

    Attributes:
        order: derivative order at which they first do, 0 where that is not known.
    """

    def __init__(self, message: str, order: int = 0) -> None:
        super().__init__(message)
        self.order = order


@dataclasses.dataclass(frozen=True)
class Truth:
    """A true value and the scale its error is measured on.

    Attributes:
        value: a tensor, a number, or tuples and mappings of them.
        scale: magnitude of the terms that sum up to the value where they may cancel: no method can know the value
            better than rounding of these. None: the largest entry.
        error: relative error that the value itself may have, beyond rounding.
        source: how it was found, where not by autograd entry by entry; "" there.
    """

    value: Any
    scale: float | None = None
    error: float = 0.0
    source: str = ""


def differentiate(y: Tensor, x: Tensor, keep: bool) -> Tensor:
    """∇y in x as a flat vector, zeros where y does not depend on x; ``keep``: differentiable again."""
    pieces: tuple[Tensor | None, ...] = (
        torch.autograd.grad(y, [x], create_graph=keep, retain_graph=True, allow_unused=True)
        if y.requires_grad
        else (None,)
    )
    return torch.zeros(x.numel(), dtype=torch.float64) if pieces[0] is None else pieces[0].flatten()


def start(f: ScalarFunction, x: Tensor) -> tuple[Tensor, Tensor]:
    point = x.detach().clone().requires_grad_(True)
    return f(point), point


def _entries(y: Tensor, x: Tensor, order: int) -> Tensor:
    """All n^order derivatives of y, of shape (n,) * order: every entry of one order is differentiated alone."""
    row = differentiate(y, x, keep=order > 1)
    if order == 1:
        return row.detach()
    return torch.stack([_entries(entry, x, order - 1) for entry in row.unbind()])


def _chain(f: ScalarFunction, x: Tensor, v: Tensor, order: int) -> list[Tensor]:
    """f, Df[v], …, D^order f[v, …, v] at x."""
    y, point = start(f, x)
    levels = [y]
    for _ in range(order):
        levels.append(differentiate(levels[-1], point, keep=True) @ v.flatten())
    return [level.detach() for level in levels]


def _contract(entries: Tensor, direction: Tensor, times: int) -> Tensor:
    for _ in range(times):
        entries = entries @ direction
    return entries


def _few_sweeps(n: int, order: int) -> bool:
    return bool(sum(n**j for j in range(order)) <= _SWEEPS)


def _agree(a: Tensor, b: Tensor, scale: float, what: str) -> None:
    difference = float((a - b).abs().max())
    # A result that is not finite is no truth, but it is not this check that says so.
    if math.isfinite(difference) and difference > _AGREEMENT * scale:
        raise TruthError(f"{what}: two routes to the reference differ by {difference:.3g} at scale {scale:.3g}")


def check_slopes(f: ScalarFunction, x: Tensor, order: int) -> None:
    """Check along a random line that each derivative up to ``order`` is the slope of the one below it.

    Five-point differences (Abramowitz & Stegun 1964, 25.3.6 with n = 4) of orders 0 … order-1.
    """
    u = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(20))
    u = u / torch.linalg.vector_norm(u)
    size = 1 + float(torch.linalg.vector_norm(x))
    exact = _chain(f, x, u, order)
    pending: Sequence[int] = range(1, order + 1)
    slopes: dict[int, float] = {}
    for step in _STEPS:
        h = step * size
        near = [_chain(f, x + i * h * u, u, order - 1) for i in (-2, -1, 1, 2)]
        agreeing = set()
        for level in pending:
            a, b, c, d = (float(values[level - 1]) for values in near)
            slopes[level] = (a - 8 * b + 8 * c - d) / (12 * h)
            allowed = abs(float(exact[level])) + max(abs(float(exact[level - 1])), abs(a), abs(d)) / size
            deviation = abs(slopes[level] - float(exact[level]))
            if not math.isfinite(deviation) or deviation <= _SLOPE_AGREEMENT * allowed:
                agreeing.add(level)
        pending = [level for level in pending if level not in agreeing]
        if not pending:
            return
    level = pending[0]
    raise TruthError(
        f"order {level}: autograd gives {float(exact[level]):.6g} along a random line, where the order below has slope "
        f"{slopes[level]:.6g}; f hides a dependence from autograd (.item(), .detach(), numpy, once_differentiable), "
        "is not deterministic or not smooth at x, or a derivative formula of PyTorch is wrong",
        level,
    )


def _tensor(f: ScalarFunction, x: Tensor, order: int) -> Truth:
    check_slopes(f, x, order)
    return Truth(_entries(*start(f, x), order).reshape(x.shape * order))


def _product(f: ScalarFunction, x: Tensor, v: Tensor, order: int) -> Truth:
    check_slopes(f, x, order)
    y, point = start(f, x)
    direction = v.detach().flatten()
    n = x.numel()
    if _few_sweeps(n, order):
        return Truth(_contract(_entries(y, point, order), direction, order - 1).reshape(x.shape))
    chained = y
    for _ in range(order - 1):
        chained = differentiate(chained, point, keep=True) @ direction
    result = differentiate(chained, point, keep=True).detach()
    gradient = differentiate(y, point, keep=True)
    for i in torch.linspace(0, n - 1, min(n, _SAMPLES)).long().tolist():
        # Component first, direction after (at order 2: row i of the Hessian, times v); the chain went the other way.
        entry = gradient[i]
        for _ in range(order - 1):
            entry = differentiate(entry, point, keep=True) @ direction
        _agree(
            entry.detach(), result[i], float(result.abs().max()), f"derivative_vector_product, order {order}, entry {i}"
        )
    return Truth(result.reshape(x.shape))


def _directional(f: ScalarFunction, x: Tensor, v: Tensor, order: int) -> Truth:
    """The product contracted once more, checked against an ordinary derivative of t ↦ f(x + tv)."""
    terms = _product(f, x, v, order).value * v
    scale = float(terms.abs().sum())
    value = terms.sum()
    t = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    y = f(x.detach() + t.reshape(()) * v.detach())
    for _ in range(order):
        y = differentiate(y, t, keep=True)[0]
    _agree(y.detach(), value, scale, f"directional_derivative, order {order}")
    return Truth(value, scale)


def _or_by_differences(exact: Callable[..., Truth], operator: str) -> Callable[..., Truth]:
    """The truth by autograd, or where that cannot be had, by differences of the highest order that can.

    Autograd has no second derivative of some operators (cdist), and a wrong one of others.
    """

    def found(f: ScalarFunction, x: Tensor, *more: Any, order: int) -> Truth:
        try:
            return exact(f, x, *more, order)
        except TruthError as error:
            if error.order == 1:  # the gradient is not that of f's values
                raise
            why: RuntimeError = error
        except RuntimeError as error:  # autograd cannot
            why = error
        try:
            return _differenced(operator, f, x, more, order)
        except RuntimeError as error:
            raise TruthError(f"{str(why).splitlines()[0]}; {error}") from why

    return found


_KNOWN_WELL = 1e-4
_DIFFERENCES = 4096
"""Differences of gradients that a tensor may take."""


def _differenced(operator: str, f: ScalarFunction, x: Tensor, more: tuple[Any, ...], order: int) -> Truth:
    """The derivative by central differences of the one below it, at two steps that must agree.

    Raises:
        RuntimeError: they do not, the one below cannot be had either, or it would take too long.
    """
    below = order - 1
    if below:
        check_slopes(f, x, below)

    def derivative(p: Tensor) -> Tensor:
        """D^below f, contracted with v below - 1 times where there is a v; values where below is 0."""
        y, point = start(f, p)
        if not below:
            return y.detach().reshape(1)
        return (
            _contract(_entries(y, point, below), more[0].detach().flatten(), below - 1)
            if more
            else _entries(y, point, below)
        )

    if more:
        along = [more[0].detach()]
    else:
        if x.numel() ** max(order - 1, 1) > _DIFFERENCES:
            raise RuntimeError("differences would take too long")
        along = list(torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *x.shape))
    columns, doubts, noises = zip(*(differenced(derivative, x, v) for v in along), strict=True)
    value = torch.stack(columns, -1) if not more else columns[0]
    if more and below == 0:
        raise RuntimeError("a product of order 1 is the gradient")
    scale = max(float(value.abs().max()), torch.finfo(torch.float64).tiny)
    error = max(max(doubts), max(noises)) / scale
    if not error <= _KNOWN_WELL:
        raise RuntimeError(f"differences of order {below} at two steps disagree by {error:.2g} of their size")
    source = (
        f"differences of {'gradients' if below == 1 else 'values' if not below else f'derivatives of order {below}'}"
    )
    if operator == "derivative_tensor":
        return Truth(value.reshape(x.shape * order), error=error, source=source)
    value = value.reshape(x.shape)
    if operator == "derivative_vector_product":
        return Truth(value, error=error, source=source)
    terms = value * more[0]
    size = float(terms.abs().sum())
    return Truth(terms.sum(), size, error * scale * float(more[0].abs().sum()) / (size or 1.0), source)


# By name: the truth does not import what it judges.
TRUTHS: dict[str, Callable[..., Any]] = {
    "gradient": lambda f, x: _or_by_differences(_tensor, "derivative_tensor")(f, x, order=1),
    "derivative_tensor": _or_by_differences(_tensor, "derivative_tensor"),
    "derivative_vector_product": _or_by_differences(_product, "derivative_vector_product"),
    "directional_derivative": _or_by_differences(_directional, "directional_derivative"),
}

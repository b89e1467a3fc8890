"""FLOP formulas against the hand counts of the problems, and Griewank & Walther's bounds on operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hograd_bench import problems
from hograd_bench.metrics._dispatch import Tally, count

from hograd_core.derivatives.derivative_vector_product import derivative_vector_product

SPEC = problems.Spec(n=16, depth=3, batch=4)
GRADIENT_BOUND = 5
HVP_BOUND = 10
"""Griewank & Walther 2008, §4.6 and §5.1: a gradient takes at most 5 times the operations of f, a second-order
adjoint at most 10 times; their count includes fetches and stores, ours is arithmetic alone."""


@dataclass(frozen=True)
class Operations:
    """Operations on one problem.

    Attributes:
        by_hand: the problem's own count for f, None where nobody has counted.
        f, gradient, hvp: by formula, additions to zero accumulators aside, as hands count.
        covered: whether every dispatch had a formula.
    """

    problem: str
    by_hand: int | None
    f: int
    gradient: int
    hvp: int
    covered: bool

    @property
    def gradient_ratio(self) -> float:
        """Operations of the gradient over those of f."""
        return self.gradient / self.f

    @property
    def hvp_ratio(self) -> float:
        """Operations of the HVP over those of f."""
        return self.hvp / self.f


def operations(name: str, spec: problems.Spec = SPEC, method: str = "double_backward") -> Operations:
    """Count f, its gradient by one reverse sweep, and its HVP.

    Args:
        name: the problem.
        spec: its sizes.
        method: of the HVP.

    Returns:
        See :class:`Operations`.

    Raises:
        UnsupportedError: PyTorch has no second derivative of this f.
    """
    record = problems.get(name)
    at = record.instance(spec)
    v = at.v
    assert v is not None
    calls: tuple[Callable[[], Any], ...] = (
        lambda: at.f(at.x),
        lambda: derivative_vector_product(at.f, at.x, v, 1, method="double_backward"),
        lambda: derivative_vector_product(at.f, at.x, v, 2, method=method),
    )
    for call in calls:
        call()  # a first call may also set up PyTorch
    of_f, of_gradient, of_hvp = (count(call) for call in calls)
    by_hand = sum(record.operations(spec).values()) if record.operations is not None else None
    covered = not (of_f.uncovered or of_gradient.uncovered or of_hvp.uncovered)
    return Operations(name, by_hand, _by_hands(of_f), _by_hands(of_gradient), _by_hands(of_hvp), covered)


def _by_hands(tally: Tally) -> int:
    return tally.flops - tally.accumulators

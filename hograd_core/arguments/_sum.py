"""A function that is a mean of terms, one for each batch of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hograd_core.arguments import _tree

Term = tuple[float, Callable[[Tensor], Tensor]]
"""A weight and a function."""


@dataclass(frozen=True)
class WeightedSum:
    """x ↦ Σ w f(x) / Σ w over terms (w, f) that are made anew at every call, one alive at a time.

    A linear operator (a derivative; not a solver) is computed term by term, in the memory of one; anything else calls
    it as a function, whose graph is of all terms.

    Attributes:
        terms: gives the terms; the same ones, in whatever order, at every call.
        mean: whether to divide by the sum of weights.
    """

    terms: Callable[[], Iterable[Term]]
    mean: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """The value at x."""
        value: Tensor = self.combined(lambda f: f(x))
        return value

    def combined(self, of_term: Callable[[Callable[[Tensor], Tensor]], Any]) -> Any:
        """The weighted sum, or mean, of what ``of_term`` makes of each f: tensors, or structures of them.

        Raises:
            ValueError: there is no term.
        """
        total, weights = None, 0.0
        for weight, f in self.terms():
            part = of_term(f)
            if total is None:
                total = _tree.mapped(lambda t, w=weight: w * t, part)
            else:
                total = _tree.mapped(lambda a, t, w=weight: a + w * t, total, part)
            weights += weight
        if total is None:
            raise ValueError("batches: got none, expected at least one")
        return _tree.mapped(lambda t: t / weights, total) if self.mean else total

    def mapped(self, change: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]) -> WeightedSum:
        """The same with every f changed."""
        return WeightedSum(lambda: ((weight, change(f)) for weight, f in self.terms()), self.mean)


def changed(f: Any, change: Callable[[Any], Any]) -> Any:
    """``change(f)``; of a sum, of each of its terms."""
    return f.mapped(change) if isinstance(f, WeightedSum) else change(f)

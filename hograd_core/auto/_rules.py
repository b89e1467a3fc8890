"""The choice that needs no measurement: methods in the order in which they are tried, as data."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

_MODEST = 2**28
"""Bytes of intermediates that a chunk whose size nobody chose may take."""


class Modest(int):
    """A chunk size that shrinks where one item alone takes much: who did not ask for a chunk must not pay for it."""

    def over(self, y: Tensor) -> int:
        """The chunk for reverse sweeps over the graph of y."""
        return max(1, min(self, _MODEST // max(_tape_bytes(y), 1)))


def _tape_bytes(y: Tensor) -> int:
    """Bytes of the cotangents that a reverse sweep from y computes, from the shapes that the tape holds."""
    total, seen, stack = 0, set(), [y.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for each in node._input_metadata:
            total += math.prod(each.shape) * each.dtype.itemsize
        stack.extend(parent for parent, _ in node.next_functions)
    return total


@dataclass(frozen=True)
class Rule:
    """A method that an operator tries, between two orders and up to a size, with options.

    Attributes:
        method: its name.
        why: in words.
        min_order, max_order: orders for which it is tried.
        max_numel: elements of x up to which it is tried.
        options: what it is called with.
    """

    method: str
    why: str
    min_order: int = 1
    max_order: int | None = None
    max_numel: float = math.inf
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


# From times of the default sweep; `python -m studies.regret` says how much longer than the best they take.
_RULES: Mapping[str, tuple[Rule, ...]] = {
    "derivative_tensor": (
        Rule("batched_rows", "a vectorised sweep makes many rows at once", 2, options={"chunk_size": Modest(64)}),
        Rule("rows", "a sweep an entry works wherever PyTorch can differentiate f"),
    ),
    "directional_derivative": (
        Rule("taylor", "grows with the square of the order, nesting exponentially", 4),
        Rule("nested_grad", "at low orders nesting has less overhead"),
    ),
    "hessian_diagonal": (
        Rule("forward_over_forward", "vectorised, without a tape", options={"chunk_size": Modest(64)}),
        Rule("layers", "the weights of layers at once, of the rest a product a column"),
        Rule("columns", "a product a column works wherever PyTorch can differentiate f twice"),
    ),
    # An eigenvalue decomposition takes 4/3 n³ operations; below, that is less than the calls of n/3 Lanczos steps.
    "hessian_extreme_eigenvalues": (
        Rule("dense", "a small matrix costs less than the steps of an iteration", max_numel=512),
        Rule("lanczos", "a product a step, and no matrix"),
    ),
}


def has_rule(operator: str) -> bool:
    """Whether another method than an operator's default may be taken where none is named."""
    return operator in _RULES


@functools.lru_cache(maxsize=1024)
def by_rule(operator: str, default: str, order: int | None, numel: int) -> tuple[Rule, ...]:
    """The methods of an operator in the order in which they are tried; ``default`` is its only one where no rule is."""
    rules = _RULES.get(operator, (Rule(default, "the operator's default"),))
    return tuple(
        rule
        for rule in rules
        if numel <= rule.max_numel
        and (order is None or (rule.min_order <= order and (rule.max_order is None or order <= rule.max_order)))
    )

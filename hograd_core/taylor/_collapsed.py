"""Collapsed Taylor propagation: one highest coefficient for a weighted sum over directions (Dangel et al. 2025, §3).

Of x + t v_r the value at t = 0 is the same for all directions, and the highest coefficient enters linearly: all that is
wanted of it is its weighted sum, which one tensor carries. The coefficients between have a leading dimension of
directions. A rule is run once under ``vmap``, so that what is the same for all directions is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from hograd_core.taylor._series import Series

Weights = Tensor | float
"""Of directions, summing to one; a number: of each."""


class Wide(NamedTuple):
    """A coefficient of every direction, along a leading dimension."""

    each: Tensor


def is_wide(coefficient: Any) -> bool:
    """Whether inside of a rule a coefficient differs from direction to direction."""
    return isinstance(coefficient, Tensor) and torch._C._functorch.is_batchedtensor(coefficient)


class _Place(NamedTuple):
    """Where in the results of a call under vmap a wide coefficient lies."""

    number: int


def over_directions(answer: Callable[..., Any], args: Any, kwargs: Any, weights: Weights) -> Any:
    """The answer of a rule to series with wide coefficients; of the highest, the weighted sum.

    With weights w_r that sum to one, Σ_r w_r (L u + N_r) = L u + Σ_r w_r N_r: where the highest coefficient u of an
    argument is the sum already, it is handed to each direction as it is.
    """
    leaves, shape = tree_flatten(
        (args, kwargs),
        is_leaf=lambda leaf: isinstance(leaf, Wide | Series) or not isinstance(leaf, list | tuple | dict),
    )
    wide = [c.each for leaf in leaves for c in _coefficients(leaf) if isinstance(c, Wide)]
    found: list[Any] = []

    def lane(*lanes: Tensor) -> tuple[Tensor, ...]:
        given = iter(lanes)
        filled = [
            Series([next(given) if isinstance(c, Wide) else c for c in _coefficients(leaf)])
            if isinstance(leaf, Series)
            else leaf
            for leaf in leaves
        ]
        opened, named = tree_unflatten(filled, shape)
        several: list[Tensor] = []
        found[:] = [_taken(answer(*opened, **named), several)]
        return tuple(several)

    with _plain_dispatch():
        several = torch.vmap(lane, randomness="same")(*wide) if wide else lane()
    return _put(found[0], several, weights)


# Of these two none is a function within a function that calls itself: such hold what they saw until a collection.
def _taken(result: Any, several: list[Tensor]) -> Any:
    """A result under vmap with places for its wide coefficients, which are added to those of before."""
    if isinstance(result, Series):
        return Series([_taken(c, several) for c in result.c])
    if isinstance(result, list | tuple):
        return type(result)(_taken(item, several) for item in result)
    if not is_wide(result):
        return result
    several.append(result)
    return _Place(len(several) - 1)


def _put(result: Any, several: Sequence[Tensor], weights: Weights) -> Any:
    """The result with what vmap gave at its places; of highest coefficients the weighted sum."""
    if isinstance(result, Series):
        *lower, last = _coefficients(result)
        lower = [Wide(several[c.number]) if isinstance(c, _Place) else c for c in lower]
        return Series([*lower, weighted_sum(several[last.number], weights) if isinstance(last, _Place) else last])
    if isinstance(result, list | tuple) and not isinstance(result, _Place):
        return type(result)(_put(item, several, weights) for item in result)
    return result


def _coefficients(value: Any) -> list[Any]:
    """Of a series, which here may be wide or stand for places."""
    return list(value.c) if isinstance(value, Series) else []


@contextmanager
def _plain_dispatch() -> Iterator[None]:
    """Without the sign that a dispatch mode is on where none is any more.

    A mode that calls on an operation is off meanwhile, though the sign stays; vmap's layers take it at its word.
    """
    stale = torch._C._len_torch_dispatch_stack() == 0 and torch._C._dispatch_tls_is_dispatch_key_included("Python")
    if stale:
        torch._C._dispatch_tls_set_dispatch_key_included("Python", False)
    try:
        yield
    finally:
        if stale:
            torch._C._dispatch_tls_set_dispatch_key_included("Python", True)


def weighted_sum(each: Tensor, weights: Weights) -> Tensor:
    """Σ_r w_r c_r over the leading dimension."""
    if not isinstance(weights, Tensor):
        return each.sum(0) * weights
    return (each * weights.to(each.dtype).view(-1, *(1,) * (each.dim() - 1))).sum(0)

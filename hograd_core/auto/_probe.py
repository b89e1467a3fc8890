"""The candidates timed on f itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from hograd_core.arguments import leaves
from hograd_core.auto._choice import Candidate, Choice
from hograd_core.auto._rules import Modest

_CALLS = 3
_HOPELESS = 3.0
"""Times the fastest so far that a first call may take; what takes longer is not called again."""
_SMALL = 256
"""Elements of x up to which methods are tried that vectorise over all of them at once."""


def probed(
    operator: Any, order: int, numel: int, choice: Choice, options: Collection[str], call: Callable[[Candidate], Any]
) -> Choice:
    """The same candidates and every other exact method, by time; those whose result differs are left out.

    Args:
        operator: its record.
        order: derivative order.
        numel: elements of x.
        choice: without a probe: its last candidate, which works most widely, has the result that others must have.
        options: what the caller gives to the method, which must take it.
        call: computes by a candidate, with the guard; raises RuntimeError where that cannot be.
    """
    first = {c.method: c for c in choice.candidates}
    others = [
        Candidate(m.name, "", {"chunk_size": Modest(64)} if "chunk_size" in m.options else {})
        for m in operator.methods.values()
        if m.exact and m.supports(order) and m.name not in first and set(options) <= set(m.options)
    ]
    bounded = [c for c in others if c.options or numel <= _SMALL or "vectorised" not in operator.methods[c.method].mode]
    truth, taken, best = None, {}, math.inf
    for candidate in [choice.candidates[-1], *choice.candidates[:-1], *bounded]:
        if candidate.method in taken:
            continue
        try:
            result, seconds = _timed(candidate, call, best)
        except RuntimeError:
            continue
        if truth is None:
            truth = result
        elif not _same(result, truth):
            continue
        taken[candidate.method] = (seconds, candidate)
        best = min(best, seconds)
    ordered = sorted(taken.values(), key=lambda each: (each[0], each[1].method))
    found = tuple(Candidate(c.method, f"{seconds:.3g} s by a probe", c.options) for seconds, c in ordered)
    return Choice(choice.operator, choice.order, found, "probe") if found else choice


def _timed(candidate: Candidate, call: Callable[[Candidate], Any], best: float) -> tuple[Any, float]:
    """The result, and the shortest of a few calls after one that warms up."""
    start = time.perf_counter()
    result = call(candidate)
    first = taken = time.perf_counter() - start
    for _ in range(0 if first > _HOPELESS * best and first > 0.1 else _CALLS):
        start = time.perf_counter()
        call(candidate)
        taken = min(taken, time.perf_counter() - start)
    return result, taken


def _same(result: Any, truth: Any) -> bool:
    pairs = list(zip(leaves(result), leaves(truth), strict=True))
    return all(
        isinstance(a, Tensor) and a.shape == b.shape and bool((a - b).abs().max() <= _allowed(b)) for a, b in pairs
    )


def _allowed(truth: Tensor) -> float:
    return float(torch.finfo(truth.dtype).eps ** 0.5 * truth.abs().max()) if truth.numel() else 0.0

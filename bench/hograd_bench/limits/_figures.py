"""The figures of one call of somebody's function: by the instruments of ``hograd_bench.metrics``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from hograd_bench.metrics._allocations import Held, trace
from hograd_bench.metrics._dispatch import count
from hograd_bench.torch_state import threads


@dataclass(frozen=True)
class Figures:
    """What one call took, warm and on one thread.

    Attributes:
        peak_bytes: most bytes alive at once in blocks that the call took, its result included.
        retained_bytes: still alive after the result was deleted and garbage collected.
        aten_calls: ATen operators dispatched.
        gradient_calls: those of one gradient; None where no unit was asked for.
        at_peak, left: who took the bytes of the peak, and those that stayed.
        by_op: operator -> dispatches.
    """

    peak_bytes: int
    retained_bytes: int
    aten_calls: int
    gradient_calls: int | None
    at_peak: tuple[Held, ...]
    left: tuple[Held, ...]
    by_op: Counter[str]


def take(
    call: Callable[[], Any], gradient: Callable[[], Any] | None = None, device: str = "cpu"
) -> tuple[Any, Figures]:
    """Call once for the result, twice more for the figures.

    Every call starts from the same random numbers of torch, whose generators are left as the first call left them.
    What a first call alone takes (caches, compilation) is not counted.

    Args:
        call: takes nothing; called three times.
        gradient: the unit of the operators; called twice.
        device: "cpu" or "cuda", whose bytes are counted.

    Returns:
        The first call's result, and the figures. Cost: the call, once plain, once under the profiler (2 to 7 times the
        call) and once counted (some 10 microseconds a dispatch).

    Raises:
        RuntimeError: a profiler is on already. Whatever the call raises goes through.
    """
    with threads(1):
        before = _generators(device)
        result = call()
        after = _generators(device)
        try:
            _set_generators(before)
            taken = trace(call, device)
            _set_generators(before)
            tally = count(call)
            unit = None
            if gradient is not None:
                gradient()
                _set_generators(before)
                unit = count(gradient).calls
        finally:
            _set_generators(after)
    return result, Figures(
        taken.peak_bytes, taken.retained_bytes, tally.calls, unit, taken.attribution, taken.left, tally.by_op
    )


def device_of(*arguments: Any) -> str:
    """Where the tensors are, parameters of modules among them: "cuda" where any lies there, else "cpu"."""
    for leaf in tree_leaves(arguments):
        for tensor in leaf.parameters() if isinstance(leaf, nn.Module) else [leaf]:
            if isinstance(tensor, Tensor) and tensor.is_cuda:
                return "cuda"
    return "cpu"


def gradient_of(f: Callable[..., Any], x: Any, *more: Any) -> Callable[[], Any]:
    """A call that takes one reverse-mode gradient of ``f(x, *more)`` in x.

    Args:
        f: returns a tensor of one element.
        x: a structure of tensors, or a module, in whose parameters the gradient is taken.
        *more: further arguments.

    Raises:
        TypeError: x has nothing to differentiate by, or, at a call, f's value is not one number.
    """
    module = isinstance(x, nn.Module)
    leaves, structure = tree_flatten(x)
    inputs = [p for p in x.parameters() if p.requires_grad] if module else _floating(leaves)
    if not inputs:
        raise TypeError(
            f"hograd: the gradient that is the unit: got x of {type(x).__name__}, expected floating-point tensors in "
            "any structure, or a module with parameters; name the function: hograd.of(f, x)(fn, ...)"
        )

    def gradient() -> Any:
        with torch.enable_grad():
            if module:
                value, points = f(x, *more), inputs
            else:
                points = [t.detach().requires_grad_() for t in inputs]
                made = dict(zip(map(id, inputs), points, strict=True))
                value = f(tree_unflatten([made.get(id(leaf), leaf) for leaf in leaves], structure), *more)
            if not isinstance(value, Tensor) or value.numel() != 1:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(
                    f"hograd: the gradient that is the unit: got a value of {got}, expected one number; name the "
                    "function: hograd.of(f, x)(fn, ...)"
                )
            return torch.autograd.grad(value, points, allow_unused=True, materialize_grads=True)

    return gradient


def _floating(leaves: list[Any]) -> list[Tensor]:
    found = {id(t): t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()}
    return list(found.values())


def _generators(device: str) -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if device == "cuda" else []


def _set_generators(states: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])

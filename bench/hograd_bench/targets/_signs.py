"""What a reader should know of a function before trusting a derivative of it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

import hograd_core
from hograd_bench.targets._load import Loaded
from hograd_core import NotFiniteWarning

_RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)
_BATCH = nn.modules.batchnorm._BatchNorm
_NO_SECOND = {"not deterministic", "ignores x"}
"""What makes slopes of the gradient say nothing."""


@dataclass(frozen=True)
class Sign:
    """One thing to know.

    Attributes:
        name: in one word or two, for programs.
        says: what was seen.
        remedy: what to do about it.
    """

    name: str
    says: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        """Plain types."""
        return asdict(self)


def signs(made: Loaded, deadline: float) -> list[Sign]:
    """Everything that is looked for, as long as there is time (``time.monotonic``); about twenty gradients of f."""
    found: list[Sign] = []
    for look in (_values, _repeats, _writes, _layers, _second):
        if time.monotonic() > deadline:
            break
        if look is _second and {sign.name for sign in found} & _NO_SECOND:
            continue
        # Whatever f raises in float64, or at another point: that it can be differentiated at x is known.
        with contextlib.suppress(Exception):
            for sign in look(made):
                found.append(sign)
    return found


def _values(made: Loaded) -> Iterator[Sign]:
    value, slope = made.f(made.x), hograd_core.gradient.unguarded(made.f, made.x)
    if not bool(value.isfinite()):
        yield Sign("not finite", f"f is {value.item():g} at x", "give a point where f is finite, by a factory")
    elif not bool(slope.isfinite().all()):
        bad = int((~slope.isfinite()).sum())
        yield Sign(
            "not finite", f"{bad:,} of {slope.numel():,} entries of the gradient are not finite",
            "sqrt, norm and log have no slope at 0: move x, or keep that point out with a double torch.where",
        )  # fmt: skip
    elif not bool(slope.any()) and not bool(hograd_core.gradient.unguarded(made.f, _beside(made.x)).any()):
        yield Sign(
            "ignores x", "the gradient is zero everywhere, beside x too: f does not use x, or cuts it off the graph",
            "f must compute with the x that it is given: no .detach(), .item(), numpy or closure over another tensor",
        )  # fmt: skip


def _beside(x: Tensor) -> Tensor:
    """A point where a function that is stationary at x is not."""
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    return x + 0.1 * step * (1 + x.abs())


def _repeats(made: Loaded) -> Iterator[Sign]:
    """Twice the same call, without seeding between."""
    before = torch.get_rng_state()
    first, second = made.f(made.x).detach(), made.f(made.x).detach()
    draws = not torch.equal(before, torch.get_rng_state())
    if not torch.equal(first, second) and not (first.isnan() and second.isnan()):
        yield Sign(
            "not deterministic", f"two calls at the same x give {first.item():.9g} and {second.item():.9g}",
            "derivatives of a random function are not defined: fix its noise outside f, or call .eval()",
        )  # fmt: skip
    elif draws:
        yield Sign(
            "draws numbers", "f draws random numbers, or sets the seed of torch, although its value stays the same",
            "draw outside f and pass the numbers in: under vmap f cannot draw, and your program's seed is changed",
        )  # fmt: skip


def _writes(made: Loaded) -> Iterator[Sign]:
    """Whether f changes x in place, which only a tensor without a gradient lets it do."""
    point = made.x.clone()
    made.f(point)
    if point._version and not torch.equal(point, made.x):
        yield Sign("writes into x", "f changes x in place", "work on a copy: x = x.clone() as its first line")


def _layers(made: Loaded) -> Iterator[Sign]:
    training = [layer for module in _modules(made.owner) for layer in module.modules() if layer.training]
    if any(isinstance(layer, _RANDOM) and getattr(layer, "p", 1.0) > 0 for layer in training):
        yield Sign(
            "dropout in training mode", "a dropout layer is in training mode: every call has another mask",
            "module.eval(), or p = 0, where derivatives are taken",
        )  # fmt: skip
    if any(isinstance(layer, _BATCH) for layer in training):
        yield Sign(
            "batch norm in training mode", "batch normalisation is in training mode: each sample's loss depends on "
            "the whole batch, and running statistics change with every call",
            "module.eval(), or a GroupNorm or LayerNorm, unless the derivative through the batch is meant",
        )  # fmt: skip


def _modules(owner: Any) -> list[nn.Module]:
    """The modules that a function refers to: itself, its closure, its globals by name, its bound object."""
    if isinstance(owner, nn.Module):
        return [owner]
    if isinstance(owner, functools.partial):
        held = [owner.func, *owner.args, *owner.keywords.values()]
        return [module for each in held for module in _modules(each)]
    found = [getattr(owner, "__self__", None)]
    function = inspect.unwrap(getattr(owner, "__func__", owner))
    if inspect.isfunction(function):
        referred = inspect.getclosurevars(function)
        found += [*referred.nonlocals.values(), *referred.globals.values()]
    return [module for module in found if isinstance(module, nn.Module)]


def _second(made: Loaded) -> Iterator[Sign]:
    """Whether second derivatives are finite, and agree with slopes of the gradient, on both sides of x."""
    v = torch.randn(made.x.shape, generator=torch.Generator().manual_seed(0)).to(made.x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            product = hograd_core.hvp(made.f, made.x, v)
        except (RuntimeError, ArithmeticError):
            return  # its row says why
    said = [str(w.message) for w in caught if issubclass(w.category, NotFiniteWarning)]
    if said:
        yield Sign("second derivative not finite", said[0].splitlines()[0], "see the message; f is not C² at x")
    elif bool(product.isfinite().all()):
        yield from _kinks(made.f, made.x, v)


def _kinks(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Iterator[Sign]:
    """One-sided slopes of the gradient: at a kink they differ, and no step makes them agree.

    Only a kink at x itself is told: one at a distance d is met by steps above d alone.
    """
    from hograd_bench.targets._wide import wide

    point, direction = x.detach().double().cpu(), v.double().cpu()
    g = wide(f)

    def slope(h: float) -> Tensor:
        there = (point + h * direction).requires_grad_()
        (found,) = torch.autograd.grad(g(there), there, allow_unused=True, materialize_grads=True)
        return found

    here, size = slope(0.0), 1 + float(point.abs().max())
    bent, rises = [], []
    for h in (1e-5 * size, 1e-6 * size):
        ahead, behind = slope(h), slope(-h)
        noise = 1e-14 * float(here.abs().max()) / h
        rises.append(float((ahead - behind).abs().max()) / (2 * h))
        # Of a C² function the second difference falls with h; where the gradient's slope jumps, it stays.
        bent.append(float((ahead - 2 * here + behind).abs().max()) / h > 0.01 * rises[-1] + noise)
    jumps = rises[1] > 3 * rises[0] + noise  # the gradient itself: its slope grows as h falls
    if all(bent) or jumps:
        yield Sign(
            "kink at x", "the slope of the gradient is another on each side of x: f is not twice differentiable there",
            "ReLU, abs, max and sort have kinks where their arguments are 0 or tie: move x, or take a smooth function",
        )  # fmt: skip

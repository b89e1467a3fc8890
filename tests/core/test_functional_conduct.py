"""Modules called with other tensors: losses that refer to the module, odd ways to hold its parts, what is refused."""

from __future__ import annotations

import collections
import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import F64, LABELS, X, Y, flat, network, plain_gradient, squares
from torch import Tensor, nn

import hograd_core as h


class Auxiliary(nn.Module):
    """Keeps a term of its loss as an attribute, as mixtures of experts do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3, dtype=F64)
        self.term: Any = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x).tanh()
        self.term = (y**4).sum()
        return y

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        value: Tensor = squares(output, target) + self.term + self.layer.weight.pow(3).sum()
        return value


def decayed(module: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda o, t: squares(o, t) + 0.1 * torch.stack([(p**4).sum() for p in module.parameters()]).sum()


@pytest.mark.parametrize("kind", ["closure", "partial", "method"])
def test_the_loss_refers_to_the_copy(kind: str) -> None:
    module = Auxiliary() if kind == "method" else network()
    loss: Any = decayed(module)
    if kind == "partial":
        loss = functools.partial(lambda net, o, t: decayed(net)(o, t), module)
    if kind == "method":
        module(X)  # a stale term, of the module's own weights
        loss = module.loss
    f, x = h.from_module(module, loss, (X, Y))
    g = plain_gradient(module, loss(module(X), Y))
    torch.testing.assert_close(h.gradient(f, x), g)
    v = torch.cos(torch.arange(x.numel(), dtype=F64))
    step = 1e-6
    ends = []
    for sign in (1, -1):
        torch.nn.utils.vector_to_parameters(x + sign * step * v, module.parameters())
        ends.append(plain_gradient(module, loss(module(X), Y)))
    torch.testing.assert_close(h.hvp(f, x, v), (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6)


def test_weight_decay_in_the_losses_of_curvature_and_meta_learning() -> None:
    module = network()
    x, y = X[:1], Y[:1]
    g = plain_gradient(module, decayed(module)(module(x), y))
    found = h.empirical_fisher_matrix(module, decayed(module), x, y)
    torch.testing.assert_close(found, torch.outer(g, g))
    plain = h.meta_gradient(module, decayed(module), (x[None], y[None]), (x[None], y[None]), 0, 0.1)
    torch.testing.assert_close(flat(plain.gradient), g)


GLOBAL = network()


class Reaching(nn.Module):
    """Uses a weight of itself through a global name."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = GLOBAL

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x) * GLOBAL[0].weight.sum()
        return y


def reaching_loss(output: Tensor, target: Tensor) -> Tensor:
    return squares(output, target) + GLOBAL[0].weight.square().sum()


@pytest.mark.parametrize("grad", [True, False])
def test_what_a_copy_cannot_follow_is_refused(grad: bool) -> None:
    f, x = h.from_module(GLOBAL, reaching_loss, (X, Y))
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=r"own parameter '0\.weight'.*global variable"):
        f(x)
    for method in h.derivative_vector_product.methods:
        f, x = h.from_module(Reaching(), squares, (X, Y))
        with pytest.raises(ValueError, match="global variable"):
            h.hvp(f, x, x, method=method)
    with pytest.raises(ValueError, match="global variable"):
        h.fisher_matrix(Reaching(), F.cross_entropy, X, LABELS)
    pair = (X[None], Y[None])
    with pytest.raises(ValueError, match="global variable"):
        h.meta_gradient(GLOBAL, reaching_loss, pair, pair, 1, 0.1)
    with pytest.raises(ValueError, match="global variable"):
        h.r1_penalty(Reaching(), X, method="per_sample")


def test_a_point_on_the_modules_own_parameters_is_no_leak() -> None:
    module = network()
    f, _ = h.from_module(module, squares, (X, Y))
    f(torch.cat([p.flatten() for p in module.parameters()])).backward()
    found = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    torch.testing.assert_close(found, plain_gradient(module, squares(module(X), Y)))


Pair = collections.namedtuple("Pair", "a b")


class Plain:
    """An object without a meaning."""


class Slotted(nn.Module):
    __slots__ = ("reference",)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        object.__setattr__(self, "reference", self.layer)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.reference(x)  # type: ignore[attr-defined]
        return y


class Child(nn.Module):
    def __init__(self, parent: nn.Module) -> None:
        super().__init__()
        self.parent = weakref.ref(parent)

    def forward(self, x: Tensor) -> Tensor:
        parent: Any = self.parent()
        y: Tensor = x * parent.scale
        return y


class Wild(nn.Module):
    """Ways to hold parts of oneself that the copy has to follow: containers, cycles, cells that are shared, hooks."""

    def __init__(self) -> None:
        super().__init__()
        layer = self.layer = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.full((3,), 2.0))
        self.child, self.slotted = Child(self), Slotted()
        self.pair, self.queue, self.keyed = Pair(layer, self.scale), collections.deque([layer]), {layer: 1.5}
        self.default = collections.defaultdict(list, x=[layer])
        self.sets = ({layer}, frozenset([layer]))
        self.unregistered = [nn.Sequential(layer, nn.Tanh())]
        one, other = Plain(), Plain()
        one.other, other.one, one.layer = other, one, layer  # type: ignore[attr-defined]
        self.cycle = one
        self.itself: list[Any] = [layer]
        self.itself.append(self.itself)
        deep: Any = layer
        for _ in range(12):
            deep, link = Plain(), deep
            deep.next = link
        self.deep = deep
        calls = 0

        def counted(x: Tensor, *, scale: Tensor = self.scale) -> Tensor:
            nonlocal calls
            calls += 1
            return x * scale * calls

        def seen(x: Tensor) -> Tensor:
            return counted(x) * calls + self.layer.bias

        def repeated(times: int, x: Tensor) -> Tensor:
            y: Tensor = layer(x) if times == 0 else repeated(times - 1, x).tanh()
            return y

        self.seen, self.repeated = seen, repeated
        before = self.slotted.forward
        self.slotted.forward = lambda x: before(x) * 2  # type: ignore[method-assign]
        self.hooked = nn.Identity()
        self.hooked.register_forward_hook(self.hook)

    def hook(self, module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        return output * self.scale

    def forward(self, x: Tensor) -> Tensor:
        last = self.deep
        while isinstance(last, Plain):
            last = last.next  # type: ignore[attr-defined]
        y = self.pair.a(x) * self.pair.b + self.queue[0](x).sin() + sum(k(x) * v for k, v in self.keyed.items())
        y = y + self.default["x"][0](x) + sum(one(x).cos() for held in self.sets for one in held)
        y = y + self.cycle.other.one.layer(x) + self.itself[1][1][0](x) + last(x) + self.unregistered[0](x)  # type: ignore[attr-defined]
        total: Tensor = self.hooked(y.tanh() + self.child(x) + self.slotted(x)) + self.seen(x) + self.repeated(3, x)
        return total


def wild() -> Wild:
    torch.manual_seed(0)
    return Wild().to(F64)


def test_parts_held_in_odd_ways() -> None:
    module = wild()
    f, x = h.from_module(module, squares, (X, Y))
    point = 1.1 * x + 0.05
    own = wild()
    torch.nn.utils.vector_to_parameters(point, own.parameters())
    expected = plain_gradient(own, squares(own(X), Y))
    for _ in range(2):  # a counter in a cell is the copy's too
        torch.testing.assert_close(h.gradient(f, point), expected)


def test_hooks_and_parameters_that_come_later() -> None:
    module = network()
    f, x = h.from_module(module, squares, (X, Y))
    f(x)
    module[0].register_forward_hook(lambda _, __, output, last=module[2]: output * last.weight.sum())
    module[0].weight = nn.Parameter(module[0].weight.detach() * 1)
    torch.testing.assert_close(h.gradient(f, x), plain_gradient(module, squares(module(X), Y)))


def test_what_writes_or_keeps_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="Embedding with max_norm"):
        h.from_module(nn.Embedding(4, 3, max_norm=1.0), squares, (torch.arange(4), Y[:4]))
    module = nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)).to(F64)
    f, x = h.from_module(module, squares, (X, Y))
    with nn.utils.parametrize.cached(), pytest.raises(ValueError, match="leave that block"):
        f(x)

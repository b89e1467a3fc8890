"""Modules called with other tensors: right where parts run again later, and in threads; the module is never touched."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import hograd_core as h
from hograd_core._functional import Functional
from hograd_core.curvature import kfac

F64 = torch.float64


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = checkpoint(lambda z: self.second(self.first(z).tanh().sin()), x, use_reentrant=False)
        assert isinstance(y, Tensor)
        return checkpoint(self.second, y.tanh(), use_reentrant=False)


class Odd(nn.Module):
    """Holds its parts in every way that people have: closures, lists, partials, bound methods, objects of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.inner = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.by_closure = lambda x: x @ self.weight
        self.by_default = eval("lambda x, m=m: m(x)", {"m": self.inner})
        self.by_partial = functools.partial(F.linear, weight=self.weight)
        self.bound = self.inner.forward
        self.listed = [self.inner, {"again": (self.weight, self)}]
        self.helper = type("Helper", (), {})()
        self.helper.layer = self.inner
        self.calls = 0
        self.register_forward_pre_hook(lambda module, args: (args[0] * module.weight.sum().cos(),))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        x = self.by_closure(x).sin() + self.by_default(x) * self.by_partial(x)
        again, me = self.listed[1]["again"]  # type: ignore[index]
        assert me is self
        return self.bound(x).tanh() @ again + self.helper.layer(x) + self.listed[0](x) * self.seen


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).tanh())


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell = kind(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
        self.embed = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x).unsqueeze(1)
        return self.attention(y, y, y)[0]  # type: ignore[no-any-return]


MODULES: dict[str, Callable[[], nn.Module]] = {
    "checkpointed": Checkpointed,
    "odd": Odd,
    "tied": Tied,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
    "spectral": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3)), nn.Tanh()),
    "old weight norm": lambda: torch.nn.utils.weight_norm(nn.Linear(3, 3)),
    "orthogonal": lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3)), nn.Tanh()),
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()),
    "attention": Attention,
}
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=F64)


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODULES[name]().to(F64)


def square(output: Tensor, target: Any) -> Tensor:
    return (output * output.detach().cos() + output.sin() ** 2).sum()


def state_of(module: nn.Module) -> tuple[Any, ...]:
    tensors = [*module.parameters(), *module.buffers()]
    return (*map(id, tensors), *(t.detach().clone() for t in tensors), getattr(module, "calls", 0))


def same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(a, b, strict=True)
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("name", MODULES)
def test_gradient_and_product_are_those_of_the_module_itself(name: str) -> None:
    f, x = h.from_module(made(name), square, (X, None))
    point = x + 0.1 * torch.sin(torch.arange(x.numel(), dtype=F64))
    # Truth: a module of its own that has these weights, differentiated by plain autograd.
    own = made(name)
    torch.nn.utils.vector_to_parameters(point, own.parameters())
    module = made(name)
    f, _ = h.from_module(module, square, (X, None))
    before = state_of(module)
    parameters = list(own.parameters())
    value = square(own(X), None)
    g = torch.cat([p.reshape(-1) for p in torch.autograd.grad(value, parameters, create_graph=True)])
    assert torch.allclose(f(point), value)
    assert torch.allclose(h.gradient(f, point), g, atol=1e-12)
    v = torch.cos(torch.arange(x.numel(), dtype=F64))
    if name not in ("old weight norm",):
        product = torch.autograd.grad((g * v).sum(), parameters)
        assert torch.allclose(h.hvp(f, point, v), torch.cat([p.reshape(-1) for p in product]), atol=1e-10)
    assert same(before, state_of(module))


@pytest.mark.parametrize("name", ["checkpointed", "odd", "lstm", "batch norm", "tied"])
def test_threads_on_one_module(name: str) -> None:
    module = made(name)
    before = state_of(module)
    f, x = h.from_module(module, square, (X, None))

    def work(i: int) -> Tensor:
        return h.hvp(f, x * (1 + i / 50), torch.ones_like(x))

    serial = [work(i) for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(work, range(12)), serial, strict=True):
            assert torch.equal(found, expected)
    assert same(before, state_of(module))


def test_kfac_and_fisher_leave_the_module_alone_and_see_its_checkpoints() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Tanh(), nn.Linear(4, 2)).to(F64)
    module[1].eval()
    before = state_of(module)
    hooks = len(module[0]._forward_hooks)
    targets = torch.tensor([0, 1, 1, 0, 1])
    kfac(module, F.cross_entropy, X, targets)
    h.fisher_matrix(module, F.cross_entropy, X, targets)
    assert same(before, state_of(module))
    assert len(module[0]._forward_hooks) == hooks == 0
    plain = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).to(F64)

    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = plain

        def forward(self, x: Tensor) -> Tensor:
            kept: Tensor = checkpoint(self.net, x, use_reentrant=False)
            return kept

    pair = (X.unsqueeze(0), targets.unsqueeze(0))
    a = h.meta_gradient(plain, F.cross_entropy, pair, pair, 2, 0.5)
    b = h.meta_gradient(Kept(), F.cross_entropy, pair, pair, 2, 0.5)
    for one, other in zip(a.gradient.values(), b.gradient.values(), strict=True):
        assert torch.allclose(one, other)


def test_what_was_made_in_inference_mode() -> None:
    with torch.inference_mode():
        module = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).to(F64)
        inputs = X * 1
    module[0].bias.requires_grad_(False)
    f, x = h.from_module(module, square, (inputs.clone(), None))
    assert h.hvp(f, x, x).isfinite().all()


def test_modules_that_cannot_be_called_so_are_refused() -> None:
    linear = nn.Linear(3, 3)
    with pytest.raises(TypeError, match=r"DataParallel.*pass its \.module"):
        Functional(nn.DataParallel(linear))
    with pytest.raises(TypeError, match="call it once with an input first"):
        Functional(nn.Sequential(nn.LazyLinear(3)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused() -> None:
    with pytest.raises(TypeError, match="pass the module that was scripted"):
        h.from_module(torch.jit.script(nn.Linear(3, 3)), square, (X.float(), None))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_modules_are_taken_by_their_code() -> None:
    linear = nn.Linear(3, 3).to(F64)
    f, x = h.from_module(torch.compile(linear), square, (X, None))
    g, y = h.from_module(linear, square, (X, None))
    assert torch.equal(h.hvp(f, x, x), h.hvp(g, y, y))


def test_flags_follow_the_module() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to(F64)
    f, x = h.from_module(module, square, (X, None))
    trained = f(x)
    module.eval()
    assert not torch.allclose(f(x), trained)
    assert torch.allclose(f(x), square(module(X), None))

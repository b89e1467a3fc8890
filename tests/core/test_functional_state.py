"""Modules called with other tensors: in threads, with checkpoints, made in inference mode, in larger derivatives."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import F64, LABELS, X, Y, flat, network, squares
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hograd_core as h
from hograd_core.curvature import kfac


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads that change at every opportunity."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


class Counting(nn.Module):
    """Writes to a buffer and an attribute at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.register_buffer("count", torch.zeros((), dtype=F64))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.calls += 1
        y: Tensor = self.net(x).sum(1) * self.count
        return y


Work = Callable[[nn.Module, Tensor], Tensor]
PRODUCTS = tuple(h.derivative_vector_product.methods)


def of_loss(operator: Any, **options: Any) -> Work:
    def work(module: nn.Module, x: Tensor) -> Tensor:
        f, point = h.from_module(module, squares, (x, torch.ones((), dtype=F64)))
        directions = [point] if "v" in operator.inputs else []
        found: Tensor = operator(f, point, *directions, **options)
        return found

    return work


THREADED: dict[str, Work] = {
    **{f"hvp {m}": of_loss(h.derivative_vector_product, order=2, method=m) for m in PRODUCTS},
    **{f"hessian {m}": of_loss(h.derivative_tensor, order=2, method=m) for m in h.derivative_tensor.methods},
    **{f"along {m}": of_loss(h.directional_derivative, order=2, method=m) for m in h.directional_derivative.methods},
    **{
        f"laplacian {m}": lambda module, x, m=m: h.laplacian(module, x, method=m)  # type: ignore[misc]
        for m in ("nested_reverse", "forward_over_reverse", "nested_forward", "taylor")
    },
    **{
        f"penalty {m}": lambda module, x, m=m: flat(h.r1_penalty(module, x, method=m).gradient)  # type: ignore[misc]
        for m in h.r1_penalty.methods
    },
    "gauss_newton": lambda module, x: h.gauss_newton_matrix(module, F.mse_loss, x, x[:, 0], method="jacobian"),
    "product": lambda module, x: h.gauss_newton_vector_product(
        module, F.mse_loss, x, x[:, 0], torch.ones(31, dtype=F64), method="jvp_vjp"
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("name", THREADED)
def test_threads_on_one_module_by_every_method(name: str) -> None:
    module, work = Counting(), THREADED[name]
    before = [*map(id, module.parameters())]
    points = [X * (1 + i / 9) for i in range(6)]
    serial = [work(module, x) for x in points]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(functools.partial(work, module), points), serial, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    assert [*map(id, module.parameters())] == before
    assert module.calls == 0
    assert float(module.count) == 0
    assert all(p.grad is None for p in module.parameters())


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.net, self.reentrant = network(), reentrant

    def forward(self, x: Tensor) -> Tensor:
        y: Any = self.net(x) if self.reentrant is None else checkpoint(self.net, x, use_reentrant=self.reentrant)
        return self.net[2].bias + y.sin()  # type: ignore[no-any-return]


PAIR = (X[None], Y[None])
RECOMPUTED: dict[str, Work] = {
    **{f"hvp {m}": of_loss(h.derivative_vector_product, order=2, method=m) for m in PRODUCTS},
    **{
        f"meta {m}": lambda net, _, m=m: flat(h.meta_gradient(net, squares, PAIR, PAIR, 2, 0.3, method=m).gradient)  # type: ignore[misc]
        for m in h.meta_gradient.methods
    },
    **{
        f"{o.name} {m}": lambda net, x, o=o, m=m: o(net, F.cross_entropy, x, LABELS, method=m)  # type: ignore[misc]
        for o in (h.fisher_matrix, h.gauss_newton_matrix, h.empirical_fisher_matrix)
        for m in o.methods
        if m not in ("monte_carlo", "kfac")
    },
}


def refused(compute: Callable[[], Tensor]) -> Tensor | str:
    """The result, or the words by which it was refused."""
    try:
        return compute()
    except h.UnsupportedError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("name", RECOMPUTED)
def test_checkpoints_are_right_or_refused(name: str) -> None:
    expected = RECOMPUTED[name](Checkpointed(None), X)
    for reentrant, reason in ((False, "saved-tensor hooks"), (True, "checkpoint|setup_context|saved-tensor hooks")):
        found = refused(lambda r=reentrant: RECOMPUTED[name](Checkpointed(r), X))  # type: ignore[misc]
        if isinstance(found, str):
            assert re.search(reason, found)
        else:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


INFERENCE: dict[str, Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]] = {
    "fisher": lambda m, x, y, t: h.fisher_matrix(m, F.cross_entropy, x, t),
    "kfac": lambda m, x, y, t: kfac(m, F.cross_entropy, x, t).dense(),
    "meta": lambda m, x, y, t: flat(h.meta_gradient(m, squares, *[(x[None], y[None])] * 2, 2, 0.1).gradient),
    "natural": lambda m, x, y, t: h.natural_gradient_step(m, F.cross_entropy, x, t),
    "loss": lambda m, x, y, t: h.gradient(*h.from_module(m, squares, (x, y))),
    **{
        f"penalty {k}": lambda m, x, y, t, k=k: flat(h.r1_penalty(m, x, method=k).gradient)  # type: ignore[misc]
        for k in h.r1_penalty.methods
    },
}  # fmt: skip


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", INFERENCE)
def test_modules_and_batches_made_in_inference_mode(name: str, inside: bool) -> None:
    with torch.inference_mode():
        module, batch = network(), (X * 1, Y * 1, LABELS * 1)
    module[0].bias.requires_grad_(False)
    ordinary = network()
    ordinary[0].bias.requires_grad_(False)
    with torch.inference_mode(inside):
        found = INFERENCE[name](module, *batch)
    torch.testing.assert_close(found, INFERENCE[name](ordinary, X, Y, LABELS))


def test_meta_gradients_inside_a_larger_derivative() -> None:
    module, tasks = network(), (torch.stack([X, -X]), torch.stack([Y, Y]))

    def size(support: Tensor, method: str) -> Tensor:
        found = h.meta_gradient(module, squares, (support, tasks[1]), tasks, 2, 0.3, method=method)
        return found.value + sum(g.square().sum() for g in found.gradient.values())

    step = torch.zeros_like(tasks[0])
    step[0, 0, 0] = 1e-5
    expected = (size(tasks[0] + step, "unrolled") - size(tasks[0] - step, "unrolled")) / 2e-5
    for method in ("unrolled", "vectorised"):
        found = h.gradient(lambda s, m=method: size(s, m), tasks[0])[0, 0, 0]  # type: ignore[misc]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(torch.func.grad(lambda s: size(s, "vectorised"))(tasks[0])[0, 0, 0], found)
    for method in ("recomputed", "first_order"):
        with pytest.raises(h.UnsupportedError, match="use method='unrolled'"):
            h.gradient(lambda s, m=method: size(s, m), tasks[0])  # type: ignore[misc]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell, self.head = kind(3, 4, dtype=F64), nn.Linear(4, 1, dtype=F64)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.cell(x.unsqueeze(0))[0][0])
        return y


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_under_vmap_are_refused_or_right(kind: type[nn.RNNBase]) -> None:
    module = Recurrent(kind)
    pair = (X[None], Y[None, :, :1])
    expected = flat(h.meta_gradient(module, squares, pair, pair, 1, 0.1).gradient)
    found = refused(lambda: flat(h.meta_gradient(module, squares, pair, pair, 1, 0.1, method="vectorised").gradient))
    if isinstance(found, str):
        assert "use method='unrolled'" in found
    else:
        torch.testing.assert_close(found, expected)
    with pytest.raises(RuntimeError, match="must match the size"):  # the caller's own mistake stays his
        h.meta_gradient(module, lambda o, t: (o[:2] - t).sum(), pair, pair, 1, 0.1, method="vectorised")

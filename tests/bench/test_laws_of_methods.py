"""Peak bytes of Taylor passes, forward Laplacians and layers' Hessians: a law from small sizes foretells large ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from core_fakes import normal
from hograd_bench import torch_state
from hograd_bench.cells import Cell
from hograd_bench.laws import ExactLaw, fit_exact
from hograd_bench.metrics import Subject
from hograd_bench.metrics._allocations import trace
from hograd_bench.metrics._calls import warm
from prepare_fakes import every
from torch import Tensor

from hograd_core import prepare
from hograd_core.applications.pinn import laplacian

Peak = Callable[..., int]
Axes = dict[str, tuple[int, ...]]


def of_cell(**fixed: Any) -> Peak:
    def peak(preparation: str, **sizes: int) -> int:
        with torch_state.threads(1):
            return trace(warm(Subject(Cell(**fixed, **sizes, preparation=preparation)))).peak_bytes

    return peak


def of_field(u: Callable[[Tensor], Tensor], preparation: str, n: int, batch: int) -> int:
    """Of a prepared Laplacian of u at points of 3 n coordinates."""
    with torch_state.threads(1):
        x = normal(batch, 3 * n)
        p = prepare(laplacian, u, x, method="forward_laplacian", preparation=preparation)
        assert p.preparation == preparation, p.explain()
        p(x)
        return trace(lambda: p(x)).peak_bytes


def blocks(preparation: str, n: int, batch: int) -> int:
    """Of n blocks of three coordinates, which share three directions."""
    weights = [normal(3, 8, seed=1), normal(8, 1, seed=2)]

    def u(x: Tensor) -> Tensor:
        return ((x.reshape(-1, 3) @ weights[0]).tanh() @ weights[1]).reshape(x.shape[0], -1).sum(1)

    return of_field(u, preparation, n, batch)


def particles(preparation: str, n: int, batch: int) -> int:
    """Of n particles, each with 64 features that depend on three coordinates until they meet in one tanh."""
    weights = [normal(3, 64, seed=1), normal(64, 64, seed=2), normal(64, 1, seed=3)]

    def u(x: Tensor) -> Tensor:
        h = ((x.reshape(-1, 3) @ weights[0]).tanh() @ weights[1]).tanh() @ weights[2]
        return h.reshape(x.shape[0], -1).sum(1).tanh()

    return of_field(u, preparation, n, batch)


# The sizes that a law is found from, and sizes eight times the largest (a depth less, which takes long to trace). Each
# case is within one term of a maximum: layers wider than the 16 pixels, and more points than what the search for
# groups takes; points wider than 32, where those joined with their series for one product take more than what follows.
CASES: dict[str, tuple[Peak, Axes, Axes]] = {
    "forward_laplacian": (
        of_cell(operator="laplacian", method="forward_laplacian", problem="field_loss", depth=2),
        {"n": (2, 3, 4, 6), "batch": (4, 8, 16)}, {"n": (48,), "batch": (128,)},
    ),
    "forward_laplacian, in groups": (blocks, {"n": (6, 8, 10), "batch": (24, 32, 40)}, {"n": (80,), "batch": (320,)}),
    "forward_laplacian, packed": (particles, {"n": (6, 8, 10, 12), "batch": (4, 8, 16)}, {"n": (48,), "batch": (64,)}),
    "collapsed_taylor": (
        of_cell(operator="laplacian", method="collapsed_taylor", problem="field_loss", depth=2),
        {"n": (2, 3, 4, 6), "batch": (4, 8, 16)}, {"n": (48,), "batch": (128,)},
    ),
    "taylor, matrices": (
        of_cell(operator="directional_derivative", method="taylor", problem="mlp", order=3),
        {"n": (8, 16, 24), "depth": (3, 4, 5)}, {"n": (192,), "depth": (16,)},
    ),
    "taylor, elementwise": (
        of_cell(operator="directional_derivative", method="taylor", problem="sin_chain", order=4),
        {"n": (8, 16, 24), "depth": (3, 4, 5)}, {"n": (192,), "depth": (16,)},
    ),
    "layers": (
        of_cell(operator="hessian_diagonal", method="layers", problem="digits_loss", depth=2),
        {"n": (16, 20, 24, 32), "batch": (4, 8, 12)}, {"n": (256,), "batch": (96,)},
    ),
    "interpolated_taylor": (
        of_cell(operator="partial_derivatives", method="interpolated_taylor", problem="field_loss", depth=2),
        {"n": (40, 44, 48, 56), "batch": (4, 8, 16)}, {"n": (448,), "batch": (128,)},
    ),
}  # fmt: skip


def foretold(name: str, preparation: str) -> None:
    peak, small, far = CASES[name]
    seen = {
        sizes: peak(preparation, **dict(zip(small, sizes, strict=True))) for sizes in itertools.product(*small.values())
    }
    law = fit_exact(seen, tuple(small), metric="peak_bytes")
    assert isinstance(law, ExactLaw), f"{law}: {seen}"
    assert not law.excluded, law.text
    for sizes in itertools.product(*far.values()):
        at = dict(zip(far, sizes, strict=True))
        assert peak(preparation, **at) == law.predict(at), law.text


@pytest.mark.parametrize("name", CASES)
def test_eager_peaks(name: str) -> None:
    foretold(name, "eager")


# Each with the size along which it is prepared three times, the last at eight times the second. Compiled, products of
# matrices within the cache stay in one kernel, which takes its result alone: where there are products, above it.
ALONG = {
    "forward_laplacian": ("batch", 16, 32), "forward_laplacian, in groups": ("batch", 256, 320),
    "forward_laplacian, packed": ("batch", 16, 32),
    "collapsed_taylor": ("batch", 16, 32), "taylor, matrices": ("n", 192, 256), "taylor, elementwise": ("n", 16, 32),
    "layers": ("batch", 16, 32),
}  # fmt: skip


@pytest.mark.slow
@every
@pytest.mark.parametrize("name", ALONG)
def test_prepared_peaks(name: str, preparation: str) -> None:
    """By the allocator's count: a line through two foretells eight times the larger."""
    peak, small, _ = CASES[name]
    along, first, second = ALONG[name]
    rest = {other: values[-1] for other, values in small.items() if other != along}
    at = [peak(preparation, **rest, **{along: size}) for size in (first, second, 8 * second)]
    slope = (at[1] - at[0]) / (second - first)
    assert at[0] >= 4, "its result, in float32; compiled, a scalar may be all that a kernel takes"
    assert at[2] == at[1] + slope * 7 * second, at

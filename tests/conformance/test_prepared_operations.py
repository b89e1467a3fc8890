"""Operations that neither the problems nor the random functions have, each prepared as a graph and all compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conformance_loop import near
from prepare_fakes import needs_compiler
from torch import Tensor
from torch.nn import functional

import hograd_core as h
from hograd_core import prepare

pytestmark = [pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")]
SHAPE = (1, 2, 4, 4)
TOGETHER = 12
"""So many are compiled as one, of a row of x each."""


def spd(y: Tensor) -> Tensor:
    """A positive definite matrix, (8, 8)."""
    a = y.view(8, 4)
    return a @ a.t() / 8 + 2 * torch.eye(8, dtype=y.dtype)


def grid(y: Tensor) -> Tensor:
    return torch.linspace(-0.9, 0.9, 18, dtype=y.dtype).view(1, 3, 3, 2)


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": lambda y: y.abs() * y.exp(),
    "adaptive_avg_pool2d": lambda y: functional.adaptive_avg_pool2d(y, 3),
    "adaptive_max_pool2d": lambda y: functional.adaptive_max_pool2d(y, 3),
    "amax": lambda y: y.amax(1) * y.sum(1),
    "avg_pool2d": lambda y: functional.avg_pool2d(y, 2, 1, 1),
    "bilinear": lambda y: functional.bilinear(y.view(8, 4), y.view(8, 4).cos(), torch.ones(2, 4, 4, dtype=y.dtype)),
    "cholesky": lambda y: torch.linalg.cholesky(spd(y)),
    "clamp": lambda y: y.clamp(-0.5, 0.5) * y,
    "complex": lambda y: torch.view_as_complex(y.view(4, 4, 2)).exp().abs(),
    "conv_transpose2d": lambda y: functional.conv_transpose2d(y, torch.ones(2, 3, 2, 2, dtype=y.dtype), stride=2),
    "conv_transpose1d, weights": lambda y: functional.conv_transpose1d(
        torch.ones(2, 4, 3, dtype=y.dtype), y.view(4, 4, 2)
    ),
    "cosine_similarity": lambda y: functional.cosine_similarity(y, y.flip(-1) + 1, 1),
    "cross_entropy": lambda y: functional.cross_entropy(y.view(8, 4), torch.arange(8) % 4, label_smoothing=0.1),
    "cummax": lambda y: y.cummax(-1).values * y,
    "diff": lambda y: y.diff(dim=-1),
    "dtypes": lambda y: y.to(torch.float64).square().to(y.dtype) * y,
    "embedding": lambda y: functional.embedding(torch.tensor([0, 2, 2, 1]), y.view(8, 4)),
    "frexp": lambda y: torch.frexp(y.view(8, 4)[:1]).mantissa,
    "gather": lambda y: y.gather(-1, torch.zeros(1, 2, 4, 2, dtype=torch.int64)),
    "grid_sample": lambda y: functional.grid_sample(y, grid(y), align_corners=False),
    "group_norm": lambda y: functional.group_norm(y, 2),
    "hfft": lambda y: torch.fft.hfft(torch.view_as_complex(y.view(4, 4, 2))),
    "huber_loss": lambda y: functional.huber_loss(y, y.flip(-1), delta=0.3),
    "index_add": lambda y: y.index_add(3, torch.tensor([1, 3]), y[..., :2].exp()),
    "inv": lambda y: torch.linalg.inv(spd(y)),
    "kl_div": lambda y: functional.kl_div(functional.log_softmax(y, -1), torch.full_like(y, 0.25), reduction="sum"),
    "logdet": lambda y: torch.logdet(spd(y)),
    "lp_pool2d": lambda y: functional.lp_pool2d(y + 3, 2, 2),
    "masked_fill": lambda y: y.masked_fill(torch.eye(4, dtype=torch.bool), 0.5) * y,
    "max_pool1d": lambda y: functional.max_pool1d(y.view(2, 16), 3, 2),
    "max_pool2d": lambda y: functional.max_pool2d(y, 2),
    "max_pool2d, dilated": lambda y: functional.max_pool2d(y, 2, 1, dilation=2),
    "max_pool3d": lambda y: functional.max_pool3d(y, 2),
    "median": lambda y: y.median(-1).values,
    "nearest": lambda y: functional.interpolate(y, scale_factor=2),
    "nearest-exact": lambda y: functional.interpolate(y, scale_factor=2, mode="nearest-exact"),
    "pad, reflect": lambda y: functional.pad(y, (1, 1, 1, 1), mode="reflect"),
    "pixel_shuffle": lambda y: functional.pixel_unshuffle(y, 2),
    "prelu": lambda y: functional.prelu(y, torch.tensor([0.2], dtype=y.dtype)) * y,
    "prod": lambda y: y.prod(-1),
    "renormalised": lambda y: functional.normalize(y, dim=1) * y,
    "scatter_add": lambda y: torch.zeros_like(y).scatter_add(-1, torch.zeros(SHAPE, dtype=torch.int64), y.exp()),
    "sort": lambda y: y.sort(-1).values * torch.arange(4),
    "tensordot": lambda y: torch.tensordot(y, y.exp(), dims=([1, 3], [1, 3])),
    "topk": lambda y: y.topk(2, -1).values.prod(-1),
    "unfold": lambda y: functional.unfold(y, 3, padding=1),
    "upsampled": lambda y: functional.interpolate(y, scale_factor=2, mode="bilinear"),
    "var": lambda y: y.var(-1) * y.std((2, 3), keepdim=True),
}


def function(name: str) -> Callable[[Tensor], Tensor]:
    return lambda x: OPERATIONS[name](x.sin()).square().sum()


def point(name: str) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(list(OPERATIONS).index(name))
    return torch.randn(SHAPE, generator=numbers), torch.randn(SHAPE, generator=numbers)


def true(name: str, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The product in float64, and eager."""
    return h.hvp(function(name), x.double(), v.double()), h.hvp(function(name), x, v)


@pytest.mark.parametrize("name", OPERATIONS)
def test_graphs(name: str) -> None:
    x, v = point(name)
    f = function(name)
    p, matrix = (prepare(operator, f, x, preparation="graph") for operator in (h.hvp, h.hessian))
    assert (p.preparation, matrix.preparation) == ("graph", "graph"), (p.reason, matrix.reason)
    assert near(p(x, v), *true(name, x, v))
    assert near(matrix(x), h.hessian(f, x.double()), h.hessian(f, x))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, len(OPERATIONS), TOGETHER))
def test_compiled(first: int) -> None:
    names = list(OPERATIONS)[first : first + TOGETHER]
    points, directions = map(torch.stack, zip(*map(point, names), strict=True))
    p = prepare(h.hvp, lambda x: torch.stack([function(n)(row) for n, row in zip(names, x, strict=True)]).sum(), points)
    assert p.preparation == "compiled", p.explain()
    for name, x, v, found in zip(names, points, directions, p(points, directions), strict=True):
        assert near(found, *true(name, x, v)), name


@pytest.mark.parametrize(
    "name", ["abs", "complex", "conv_transpose1d, weights", "dtypes", "hfft", "max_pool2d", "nearest", "scatter_add"]
)
def test_rows_of_a_hessian_are_no_copies_of_one(name: str) -> None:
    x, _ = point(name)
    one, whole = (prepare(operator, function(name), x, preparation="graph") for operator in (h.hvp, h.hessian))
    assert one.operations is not None
    assert whole.operations is not None
    assert sum(whole.operations.values()) < 2 * sum(one.operations.values()) + 10


def test_what_vmap_has_no_rule_for_is_repeated_for_few_rows_alone() -> None:
    weight = torch.ones(2, 70, 3)

    def f(x: Tensor) -> Tensor:
        return functional.bilinear(x.sin(), torch.ones(3), weight[:, : len(x)]).square().sum()

    assert prepare(h.hessian, f, torch.rand(8), preparation="graph").preparation == "graph"
    p = prepare(h.hessian, f, torch.rand(70), preparation="graph")
    assert p.preparation == "eager"
    assert "vmap has no rule for aten::_trilinear" in str(p.reason)
    q = prepare(h.hessian, f, torch.rand(70), preparation="graph", chunk_size=35)
    assert q.preparation == "graph"


def test_pooling_is_prepared_first_thing_in_a_process() -> None:
    """Here inductor is loaded long since."""
    code = """
import torch, hograd_core as h
f = lambda x: torch.nn.functional.max_pool2d(x.sin(), 2).square().sum()
assert h.prepare(h.hessian, f, torch.rand(1, 2, 4, 4), preparation="graph").preparation == "graph"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_compiler
@pytest.mark.slow
def test_what_inductor_calls_and_could_take_apart_is_compiled_where_ci_is_set(tmp_path: Path) -> None:
    code = """
import torch, hograd_core as h
f = lambda x: torch.nn.functional.interpolate(x.sin(), scale_factor=2, mode="bilinear").square().sum()
p = h.prepare(h.hvp, f, torch.rand(1, 2, 4, 4), preparation="compiled")
assert p.preparation == "compiled", p.explain()
"""
    environment = {**os.environ, "CI": "true", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}  # no kernel is kept there
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)

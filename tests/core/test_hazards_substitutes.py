"""Exact substitutes for what PyTorch differentiates wrongly compute the same function."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import F64, normal, weighted
from torch import nn

import hograd_core as h
from hograd_core.hazards import TESTED, nearest_tested

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore::hograd_core.NotFiniteWarning"),
]

SAME = {
    "layer_norm": lambda: F.layer_norm(normal(4, 3), (3,), normal(3), normal(3, seed=1)),
    "batch_norm": lambda: F.batch_norm(normal(4, 3, 2), None, None, normal(3), normal(3, seed=1), training=True),
    "instance_norm": lambda: F.instance_norm(normal(2, 3, 5), weight=normal(3), bias=normal(3, seed=1)),
    "group_norm": lambda: F.group_norm(normal(2, 4, 5), 2, normal(4), normal(4, seed=1)),
    "weight_norm": lambda: torch._weight_norm(normal(4, 3), normal(1, 3), 1),
    "det": lambda: torch.det(normal(2, 3, 3)),
    "slogdet": lambda: torch.stack(tuple(torch.linalg.slogdet(normal(2, 3, 3)))),
    "logdet": lambda: torch.logdet(normal(3, 3) @ normal(3, 3).mT + torch.eye(3, dtype=F64)),
    "solve": lambda: torch.linalg.solve(normal(2, 3, 3), normal(2, 3, 4, seed=1)),
    "solve right": lambda: torch.linalg.solve(normal(2, 3, 3), normal(2, 4, 3, seed=1), left=False),
    "solve vectors": lambda: torch.linalg.solve(normal(2, 3, 3), normal(2, 3, seed=1)),
    "tensorsolve": lambda: torch.linalg.tensorsolve(normal(3, 4, 4, 3), normal(3, 4, seed=1), dims=(0, 2)),
    "cholesky_inverse": lambda: torch.cholesky_inverse(normal(3, 3).tril() + 3 * torch.eye(3, dtype=F64)),
    "triangular_solve": lambda: torch.triangular_solve(normal(3, 2), normal(3, 3, seed=1), transpose=True)[0],
    "householder_product": lambda: torch.linalg.householder_product(normal(2, 4, 3), normal(2, 3, seed=1)),
    "masked_select": lambda: torch.masked_select(normal(2, 3), torch.tensor([True, False, True])),
    "cdist": lambda: torch.cdist(normal(4, 3), normal(5, 3, seed=1)),
    "cdist p": lambda: torch.cdist(normal(4, 3), normal(5, 3, seed=1), p=3.0),
    "cdist 1": lambda: torch.cdist(normal(4, 3), normal(5, 3, seed=1), p=1.0),
    "cdist inf": lambda: torch.cdist(normal(4, 3), normal(5, 3, seed=1), p=math.inf),
    "pdist": lambda: F.pdist(normal(4, 3)),
    "attention": lambda: F.scaled_dot_product_attention(*normal(3, 1, 2, 4, 3), is_causal=True),
    "cumprod": lambda: torch.cumprod(normal(3, 4), 1),
    "prod": lambda: torch.prod(normal(3, 5, 4), 1, keepdim=True) + torch.prod(normal(3)),
    "sinc": lambda: torch.sinc(normal(3, 4) * torch.tensor([1.0, 0.0, 1e-9, 3.0])),
    "logcumsumexp": lambda: torch.logcumsumexp(normal(3, 4), 0),
    "lstm": lambda: nn.LSTM(3, 2, dtype=F64)(normal(4, 1, 3))[0] if torch.manual_seed(0) is not None else None,
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_substitutes_compute_the_same_function(name: str) -> None:
    from hograd_core.hazards._modes import Repairing

    expected = SAME[name]()
    with Repairing():
        found = SAME[name]()
    assert torch.allclose(found, expected, atol=1e-12)


def test_running_statistics_are_updated_as_pytorch_does() -> None:
    from hograd_core.hazards._modes import Repairing

    for kind, shape in ((nn.BatchNorm1d, (6, 3)), (nn.BatchNorm2d, (4, 3, 2, 2)), (nn.InstanceNorm1d, (4, 3, 5))):
        plain, repaired = (kind(3, track_running_stats=True).double() for _ in range(2))
        plain(normal(*shape))
        with Repairing():
            repaired(normal(*shape))
        for a, b in zip(plain.buffers(), repaired.buffers(), strict=True):
            assert torch.allclose(a, b)


def test_distances_of_coinciding_points_and_attention_have_second_derivatives() -> None:
    x = normal(6)
    x[3:] = x[:3]
    points = lambda z: torch.cdist(z.reshape(2, 3), z.reshape(2, 3)).sin().sum()  # noqa: E731
    apart = normal(6)
    if nearest_tested(torch.__version__, TESTED) == "2.13.0":
        with pytest.raises(h.UnsupportedError):
            h.hessian(points, apart)
    else:
        assert torch.allclose(h.hessian(points, apart, method="rows"), h.hessian(points, apart, repair=True))
    assert h.hessian(points, x, repair=True).isfinite().all()
    attend = lambda z: weighted(F.scaled_dot_product_attention(*(z.reshape(3, 1, 1, 2, 2))))  # noqa: E731
    z, v = normal(12), normal(12, seed=1)
    assert torch.allclose(h.hvp(attend, z, v, repair=True), h.hvp(attend, z, v, method="finite_difference"), atol=1e-7)

"""Nothing is kept: over 100 steps no kernel of the applications grows what the collector can reach."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from core_fakes import mostly_slow
from torch import Tensor, nn

import hograd_core as hg

KERNELS = [
    (operator, method)
    for operator in (
        hg.lipschitz_penalty, hg.r1_penalty, hg.laplacian, hg.bilaplacian, hg.partial_derivatives,
        hg.directional_skewness,
    )
    for method in operator.methods
]  # fmt: skip


def arguments() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    x, v = torch.rand(2, 3, 2, generator=generator).unbind()
    return {
        "critic": network, "real": x, "fake": v, "mixing": torch.rand(3, 1, generator=generator),
        "u": network, "points": x, "indices": [(), (0, 1), (0, 0, 1, 1)],
        "f": lambda x: (x.sin() * x.roll(1)).sum() + x.square().square().sum(), "x": x, "v": v,
    }  # fmt: skip


def alive() -> int:
    return sum(o.nbytes for o in gc.get_objects() if issubclass(type(o), Tensor))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "method"), mostly_slow(KERNELS, 25), ids=lambda value: value if isinstance(value, str) else value.name
)
def test_nothing_is_kept_after_a_hundred_steps(operator: hg.Operator, method: str) -> None:
    known = arguments()
    wanted = [known[name] for name in operator.inputs]
    options = {"probes": 2} if "probes" in operator.method(method).options else {}
    for _ in range(3):
        operator(*wanted, method=method, **options)
    gc.collect()
    gc.disable()  # a reference cycle must show, not be cleaned away
    try:
        before = alive()
        for _ in range(100):
            operator(*wanted, method=method, **options)
        assert alive() == before
    finally:
        gc.enable()

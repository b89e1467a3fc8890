"""What the tests of prepared kernels share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from core_fakes import F64, normal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hograd_core.prepare.inductor import _compile

X, V = normal(8), normal(8, seed=1)
needs_compiler = pytest.mark.skipif(
    _compile.unavailable("cpu") is not None, reason=f"nothing compiles here: {_compile.unavailable('cpu')}"
)
COMPILING = [pytest.param("compiled", marks=[needs_compiler, pytest.mark.slow])]
EVERY = ["graph", *COMPILING]
every = pytest.mark.parametrize("preparation", EVERY)


class Counting(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def dispatched(call: Callable[[], object]) -> int:
    with Counting() as mode:
        call()
    return mode.calls


def network(dtype: torch.dtype = F64) -> Callable[[Tensor], Tensor]:
    weights = [normal(8, 8, seed=s, dtype=dtype) for s in (2, 3)]

    def f(x: Tensor) -> Tensor:
        for w in weights:
            x = (x @ w).tanh()
        return x.square().sum()

    return f


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-9 if a.dtype == F64 else 1e-4, atol=1e-12 if a.dtype == F64 else 1e-5)

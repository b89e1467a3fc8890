"""Prepared kernels: eager with a reason where no graph can stand for f, and where what was prepared turns out wrong."""

from __future__ import annotations

import copy
import pickle
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from core_fakes import F64
from prepare_fakes import V, X, close, network
from torch import Tensor, nn

import hograd_core as h
from hograd_core import VerificationError, prepare
from hograd_core.prepare import _build
from hograd_core.prepare.inductor import _compile


def test_many_kinds_of_inputs_are_no_changes_of_f() -> None:
    p = prepare(h.hvp, lambda x: x.pow(3).sum(), X, preparation="graph")
    for n in range(1, 30):
        p(X.repeat(n), V.repeat(n))
        assert (p.preparation, p.traces) == ("graph", n)
    for _ in range(3):
        for n in range(1, 10):  # one more than are kept
            assert close(p(X.repeat(n), V.repeat(n)), 6 * (X * V).repeat(n))
    assert (p.preparation, p.reason) == ("eager", "inputs of more than 8 kinds take turns; kernels of so many are kept")


def test_a_kernel_is_not_copied() -> None:
    p = prepare(h.hvp, lambda x: x.pow(3).sum(), X, preparation="graph")
    for copy_of in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="belongs to its process and its function; prepare again"):
            copy_of(p)


def test_what_cannot_be_seen_is_found_by_checking() -> None:
    hidden = iter([1.0] * 8 + [2.0] * 100)  # as many are taken before the first call
    f = lambda x: x.pow(4).sum() * next(hidden)  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph", check_every=2)
    assert p.reason is None
    with pytest.raises(VerificationError, match="last 2 calls"):
        deque((p(X, V) for _ in range(10)), maxlen=0)


def _bn() -> Callable[[Tensor], Tensor]:
    norm = nn.BatchNorm1d(2, dtype=F64)
    return lambda x: norm(x.view(4, 2)).pow(3).sum()


def _lstm() -> Callable[[Tensor], Tensor]:
    lstm = nn.LSTM(2, 3, dtype=F64)
    return lambda x: lstm(x.view(2, 2, 2))[0].square().sum()


def _read_of_closure() -> Callable[[Tensor], Tensor]:
    w = torch.ones(3, dtype=F64)
    return lambda x: x.pow(3).sum() if w.sum() > 0 else x.pow(4).sum()


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (lambda x: nn.functional.dropout(x, 0.5).pow(3).sum() * 0 + x.pow(3).sum(), "random"),
        (lambda x: x.pow(3).sum() if x.sum() > -99 else x.sum(), "reads values"),
        (lambda x: x.pow(3).sum() * x[0].detach().item(), "reads values"),
        (lambda x: x.pow(3).sum() * x.tolist()[0], "reads values"),
        (lambda x: x[x > 0].pow(3).sum(), "shape out of values"),
        (_bn(), "writes into"),
        (_read_of_closure(), "reads values"),
        (lambda x: (x - 100).sqrt().sum(), "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::hograd_core.NotFiniteWarning")
def test_eager_with_a_reason(f: Callable[[Tensor], Tensor], reason: str) -> None:
    p = prepare(h.hvp, f, X, preparation="graph")
    assert p.preparation == "eager"
    assert reason in (p.reason or "")
    assert reason in p.explain()
    assert torch.equal(p(X, V).nan_to_num(), h.hvp(f, X, V).nan_to_num())


@pytest.mark.slow
def test_no_compiler_falls_back_to_the_graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # no kernel is kept there
    monkeypatch.setattr(_compile, "unavailable", lambda device: "no C++ compiler")
    p = prepare(h.hvp, network(), X, preparation="compiled")
    assert p.preparation == "graph"
    assert p.reason == "compiled: no C++ compiler"


@pytest.mark.slow
def test_a_cuda_graph_needs_a_gpu() -> None:
    p = prepare(h.hvp, network(), X, preparation="cudagraph")
    assert p.preparation == "graph"
    assert "x is on the cpu" in (p.reason or "")


def test_a_wrong_pass_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(module: Any, **_: Any) -> Any:
        for node in module.graph.nodes:
            if node.target is torch.ops.aten.tanh.default:
                node.target = torch.ops.aten.sin.default
        return module

    monkeypatch.setattr(_build, "merge_products", wrong)
    f = network()
    p = prepare(h.hvp, f, X, preparation="graph")
    assert p.preparation == "eager"
    assert "differs from the eager method" in (p.reason or "")
    assert torch.equal(p(X, V), h.hvp(f, X, V))

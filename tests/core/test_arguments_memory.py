"""A limit of memory holds by the allocator's own count, and chooses larger chunks where it is larger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hograd_bench.metrics._allocations import trace
from torch import Tensor, nn

import hograd_core as h
from hograd_core.arguments import Budget, _memory

N = 96
X = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
POINTS = torch.ones(3, N, dtype=torch.float64)
XS = X.repeat(60, 1)
NET = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
INPUTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(40) % 3
WEIGHT = torch.randn(N, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def f(x: Tensor) -> Tensor:
    return torch.tanh(WEIGHT @ torch.tanh(WEIGHT @ x)).pow(2).sum()


CALLS: dict[str, Callable[..., Any]] = {
    "hessian": lambda **k: h.hessian(f, X, method="vmap_hvp", **k),
    "diagonal": lambda **k: h.hessian_diagonal(f, X, method="forward_over_forward", **k),
    "batch": lambda **k: h.hvp(f, XS, X, in_dims=(0, None), method="jvp_of_grad", **k),
    "fisher": lambda **k: h.fisher_matrix(NET, nn.CrossEntropyLoss(), INPUTS, TARGETS, **k),
    "gauss-newton": lambda **k: h.gauss_newton_matrix(NET, nn.CrossEntropyLoss(), INPUTS, TARGETS, **k),
    "laplacian": lambda **k: h.laplacian(lambda p: torch.tanh(p @ WEIGHT).sum(1), POINTS, method="nested_forward", **k),
}


def peak(call: Callable[[], Any]) -> int:
    call()
    return trace(call).peak_bytes


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the chunks that budgets choose."""
    seen: list[int] = []
    plain = Budget.slices

    def noted(self: Budget, total: int) -> Iterator[slice]:
        for part in plain(self, total):
            seen.append(part.stop - part.start)
            yield part

    monkeypatch.setattr(Budget, "slices", noted)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_what_is_chosen_keeps_to_the_limit(name: str, sizes: list[int]) -> None:
    call = CALLS[name]
    true = call()
    least, most = peak(lambda: call(chunk_size=1)), peak(call)
    assert least < most
    chunks = []
    for share in (0.25, 0.6, 2.0):
        sizes.clear()
        limit = int(least + share * (most - least)) + 4096  # of the measurement's own ranges
        found = call(memory=limit)
        torch.testing.assert_close(found, true, rtol=1e-4, atol=1e-6)
        assert peak(lambda: call(chunk_size=max(sizes))) <= limit
        chunks.append(len(sizes))
    assert chunks == sorted(chunks, reverse=True)
    assert chunks[0] > chunks[-1]


@pytest.mark.slow
def test_the_least_that_is_too_much_is_told() -> None:
    least = peak(lambda: h.hessian(f, X, method="batched_rows", chunk_size=1))
    with pytest.raises(
        h.MemoryBudgetError, match=r"batched_rows\] needs .* KiB, the limit is .* KiB; raise the limit"
    ) as e:
        h.hessian(f, X, memory=least - 1024)
    assert e.value.budget == least - 1024 < e.value.needed
    # and the profiler is off again
    assert X.nbytes <= peak(lambda: X + 1) < 2 * X.nbytes


def test_a_result_that_cannot_fit_is_refused_before_f_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def g(x: Tensor) -> Tensor:
        calls.append(x)
        return x.sum()

    with pytest.raises(h.MemoryBudgetError, match=r"the result alone needs 72 KiB, the limit is 20 KiB; use products"):
        h.hessian(g, X, memory="20KiB")
    monkeypatch.setattr(_memory, "free_memory", lambda device: 2**30)
    with pytest.raises(h.MemoryBudgetError, match=r"rows\]: the result alone needs 3.64 TiB, 1 GiB are free; use"):
        h.hessian(g, torch.zeros(1_000_000))
    with pytest.raises(h.MemoryBudgetError, match=r"needs 1.5 GiB, 1 GiB are free"):
        h.hessian(g, torch.zeros(1536, 512), in_dims=0, method="func_hessian")
    assert not calls


def test_sizes_as_people_write_them() -> None:
    cpu = torch.device("cpu")
    for text, size in {"2GiB": 2**31, "500 MB": 5 * 10**8, "1.5 kib": 1536, "7": 7, 12: 12}.items():
        assert _memory.as_bytes(text, cpu) == size
    assert _memory.as_bytes("free", cpu) == pytest.approx(_memory.free_memory(cpu), rel=0.5)
    for wrong, error in {
        "2 gallons": ValueError,
        0: ValueError,
        "": ValueError,
        1.5: TypeError,
        True: TypeError,
    }.items():
        with pytest.raises(error, match="memory: got"):
            _memory.as_bytes(wrong, cpu)
    assert [_memory.in_words(s) for s in (900, 1536, 4 * 10**12)] == ["900 bytes", "1.5 KiB", "3.64 TiB"]


def test_what_cannot_trade_time_says_so() -> None:
    with pytest.raises(TypeError, match=r"rows\] computes nothing in parts.*use one of batched_rows, vmap_hvp"):
        h.hessian(f, X, method="rows", memory="1GiB")
    with pytest.raises(TypeError, match=r"memory: .*leave it out"):
        h.gradient(f, X, memory="1GiB")
    with pytest.raises(TypeError, match="memory: got chunk_size as well"):
        h.hessian(f, X, method="vmap_hvp", chunk_size=3, memory="1GiB")
    with pytest.raises(TypeError, match="keeps the graphs of all chunks"):
        h.hessian(f, X, memory="1GiB", create_graph=True)
    with torch.autograd.profiler.profile(), pytest.raises(RuntimeError, match="profiler, which is in use"):
        h.hessian(f, X, memory="1GiB")


@pytest.mark.parametrize("method", ["rows", "vmap_hvp"])
def test_out_is_where_the_hessian_goes(method: str) -> None:
    out = torch.empty(N, N, dtype=torch.float64)
    assert h.hessian(f, X, method=method, out=out) is out
    torch.testing.assert_close(out, h.hessian(f, X, method=method))
    third = torch.empty(3, 3, 3, dtype=torch.float64)
    h.derivative_tensor(lambda x: (x**4).sum(), X[:3], 3, method=method, out=third)
    torch.testing.assert_close(third, h.derivative_tensor(lambda x: (x**4).sum(), X[:3], 3))
    for wrong, error, message in (
        (torch.empty(N, 1, dtype=torch.float64), ValueError, r"got shape \(96, 1\) on cpu, expected \(96, 96\)"),
        (torch.empty(N, N, dtype=torch.float64).T[:, :], ValueError, "contiguous"),
        (torch.empty(N, N), TypeError, "got torch.float32"),
        ([0.0], TypeError, "got list"),
    ):
        with pytest.raises(error, match=f"out: {message}" if "got" in message else message):
            h.hessian(f, X, method=method, out=wrong)  # type: ignore[arg-type]
    structured = h.hessian(lambda p: f(p["a"]), {"a": X}, method=method, out=out)
    assert structured["a"]["a"].data_ptr() == out.data_ptr()
    with pytest.raises(TypeError, match="out: got in_dims as well"):
        h.hessian(f, X.expand(2, N), method=method, out=out, in_dims=0)


@pytest.mark.parametrize("method", ["rows", "vmap_hvp"])
def test_out_shares_no_memory_with_x(method: str) -> None:
    """Rows that are written would move the point at which the next are taken."""
    space = torch.linspace(0.5, 1.5, 3 * 3 + 3, dtype=torch.float64)
    for start in (0, 3, 8, 9):
        with pytest.raises(ValueError, match="out: shares its memory with x"):
            h.hessian(lambda x: (x**4).sum(), space[start : start + 3], method=method, out=space[:9].view(3, 3))

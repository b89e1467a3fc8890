"""Which method where none is named: rules, a cache, a probe; never a wrong number, the same for the same cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import hograd_core as h
from hograd_core.auto import CACHE, Entry, Modest, choose, identity

X = torch.tensor([0.5, -1.0, 2.0, 0.3])


def f(x: Tensor) -> Tensor:
    return (torch.tanh(x[1:] * x[:-1]) ** 2).sum()


def branches(x: Tensor) -> Tensor:
    """What no vmap can follow."""
    return (x**3).sum() if x.sum().item() > 0 else (x**2).sum()


class Squared(torch.autograd.Function):
    """Its backward looks at values: only sweeps one by one go through it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * grad * x if grad.sum().item() > -1e9 else grad


class Once(Squared):
    """Not differentiable twice."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * grad * x


def entry(method: str, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "function": identity(f), "operator": "derivative_tensor", "order": 2, "method": method, "dtype": "float32",
        "device": "cpu", "threads": torch.get_num_threads(), "numel": 4, "seconds": seconds, "peak_bytes": None, **more,
    }  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a cache of entries."""
    monkeypatch.setenv(CACHE, str(tmp_path))

    def write(*entries: dict[str, Any], name: str = "a") -> Path:
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"format": 1, "entries": entries}), encoding="utf-8")
        return file

    return write


def test_the_default_is_what_auto_takes_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE, raising=False)
    true = h.hessian(f, X, method="rows")
    assert h.explain("hessian", f, X).method == "batched_rows"
    for method in (None, "auto"):
        torch.testing.assert_close(h.hessian(f, X, method=method), true)
    assert h.explain("hvp", f, X, X).method == "double_backward"
    assert [h.explain("directional_derivative", f, X, X, k).method for k in (2, 3, 4, 5)] == [
        "nested_grad", "nested_grad", "taylor", "taylor",
    ]  # fmt: skip
    assert h.explain("hessian_diagonal", f, X).method == "forward_over_forward"
    assert [h.explain("hessian_extreme_eigenvalues", f, torch.ones(n)).method for n in (4, 600)] == ["dense", "lanczos"]
    torch.testing.assert_close(h.hessian_diagonal(f, X), true.diagonal(), rtol=1e-5, atol=1e-6)
    assert [h.derivative_tensor.explain(f, X, 1).method, h.derivative_tensor.explain(f, X, 3).method] == [
        "rows", "batched_rows",
    ]  # fmt: skip


def test_where_pytorch_cannot_vectorise_the_next_candidate_computes() -> None:
    def g(x: Tensor) -> Tensor:
        return (Squared.apply(x) ** 2).sum()

    with pytest.raises(h.UnsupportedError):
        h.hessian(g, X, method="batched_rows")
    torch.testing.assert_close(h.hessian(g, X), torch.diag(12 * X**2))
    torch.testing.assert_close(h.hessian_diagonal(g, X), 12 * X**2)


def test_errors_of_f_are_f_s_and_refusals_the_last_candidate_s() -> None:
    calls = []

    def broken(x: Tensor) -> Tensor:
        calls.append(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        h.hessian(broken, X)
    assert len(calls) == 1

    with pytest.raises(h.UnsupportedError, match=r"derivative_tensor\[rows\]"):
        h.hessian(lambda x: (Once.apply(x) ** 2).sum(), X)


def test_options_choose_among_those_that_take_them() -> None:
    out = torch.empty(4, 4)
    assert h.hessian(f, X, out=out) is out
    torch.testing.assert_close(h.hessian(f, X, chunk_size=3), out)
    with pytest.raises(TypeError, match='expected "auto", which alone'):
        h.hessian(f, X, method="rows", probe=True)


def test_a_chunk_nobody_asked_for_shrinks_with_the_tape() -> None:
    x = torch.ones(3, requires_grad=True)
    small, large = (x**2).sum(), (x[:1] * torch.ones(2**22)).sum()
    assert Modest(64).over(small) == 64
    assert 1 <= Modest(64).over(large) <= 2**28 // 2**24


def test_times_of_this_function_decide(cache: Any) -> None:
    cache(entry("rows", 1e-3), entry("jacrev_of_grad", 1e-6), entry("batched_rows", 1e-4))
    choice = h.explain("hessian", f, X)
    assert [c.method for c in choice.candidates[:3]] == ["jacrev_of_grad", "batched_rows", "rows"]
    assert choice.source == "this function"
    assert "1e-06 s on this function" in str(choice)
    torch.testing.assert_close(h.hessian(f, X, method="auto"), h.hessian(f, X, method="rows"))
    assert h.explain("hessian", branches, X).source == "others of its size"


def test_others_decide_where_they_are_clear_and_near(cache: Any) -> None:
    others = [entry(m, s, function=str(i)) for i in range(3) for m, s in (("vmap_hvp", 1e-5), ("batched_rows", 1e-3))]
    cache(*others)
    assert h.explain("hessian", f, X).method == "vmap_hvp"
    assert h.explain("hessian", f, torch.ones(100)).source == "rule"
    cache(*[{**e, "seconds": 1e-5 if e["method"] == "vmap_hvp" else 1.05e-5} for e in others])
    assert h.explain("hessian", f, X).method == "batched_rows"  # a tie does not leave the rule


def test_what_is_known_to_take_too_much_is_left_out(cache: Any) -> None:
    cache(entry("vmap_hvp", 1e-6, peak_bytes=10**9), entry("batched_rows", 1e-3, peak_bytes=1000))
    assert h.explain("hessian", f, X).method == "vmap_hvp"
    assert h.explain("hessian", f, X, memory="1MiB").method == "batched_rows"
    torch.testing.assert_close(h.hessian(f, X, method="auto", memory="1MiB"), h.hessian(f, X, method="rows"))


def test_an_estimate_or_an_unknown_method_in_the_cache_is_not_taken(cache: Any) -> None:
    cache(
        entry("hutchinson", 1e-9, operator="hessian_diagonal"), entry("of_a_peer", 1e-9),
        entry("finite_difference", 1e-9, operator="derivative_vector_product"),
    )  # fmt: skip
    assert h.explain("hessian_diagonal", f, X).method == "forward_over_forward"
    assert [h.explain("hessian_extreme_eigenvalues", f, torch.ones(n)).method for n in (4, 600)] == ["dense", "lanczos"]
    assert h.explain("hessian", f, X).method == "batched_rows"
    assert h.explain("hvp", f, X, X).method == "double_backward"


@pytest.mark.parametrize("text", ["not json", "[]", '{"format": 99, "entries": []}', '{"format": 1, "entries": [{}]}'])
def test_a_damaged_cache_is_told_and_left_out(text: str, cache: Any) -> None:
    cache(entry("vmap_hvp", 1e-6))
    cache(name="b").write_text(text, encoding="utf-8")
    with pytest.warns(RuntimeWarning, match="HOGRAD_CACHE: .*b.json is left out"):
        assert h.explain("hessian", f, X).method == "vmap_hvp"


@pytest.mark.slow
def test_a_probe_times_what_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = h.explain("hessian", f, X, probe=True)
    assert choice.source == "probe"
    assert {"rows", "batched_rows", "vmap_hvp"} <= {c.method for c in choice.candidates}
    torch.testing.assert_close(h.hessian(f, X, method="auto", probe=True), h.hessian(f, X, method="rows"))


def test_a_wrong_candidate_never_wins_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    record = h.derivative_tensor.methods["jacrev_of_grad"]
    object.__setattr__(record, "function", lambda f, x, *, order: torch.zeros(4, 4))
    try:
        assert "jacrev_of_grad" not in {c.method for c in h.explain("hessian", f, X, probe=True).candidates}
    finally:
        import importlib

        kernels = importlib.import_module("hograd_core.derivatives.derivative_tensor")
        object.__setattr__(record, "function", kernels.jacrev_of_grad)


def test_identities_tell_code_and_shapes_apart_and_not_values() -> None:
    def over(data: Tensor) -> Any:
        return lambda x: (x * data).sum()

    assert identity(over(torch.ones(3))) == identity(over(torch.zeros(3)))
    assert identity(over(torch.ones(3))) != identity(over(torch.ones(4)))
    assert identity(f) != identity(branches)
    models = [nn.Linear(3, width) for width in (2, 2, 5)]
    made = [h.from_module(m, lambda out, wanted: out.sum(), (torch.ones(1, 3), None))[0] for m in models]
    assert identity(made[0]) == identity(made[1]) != identity(made[2])


def test_the_choice_is_a_pure_function_of_what_is_known() -> None:
    known = [Entry.from_json(entry("rows", 1e-3)), Entry.from_json(entry("vmap_hvp", 1e-4))]
    asked = {"function": lambda: identity(f), "numel": 4, "threads": torch.get_num_threads()}
    chosen = [choose(h.derivative_tensor, 2, known=order, **asked) for order in (known, known[::-1])]
    assert chosen[0] == chosen[1]
    assert choose(h.derivative_tensor, 2, known=known, **{**asked, "threads": 99}).source == "rule"

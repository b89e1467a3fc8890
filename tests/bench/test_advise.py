"""From rows to advice: rankings, the method to take, what is foretold."""

from __future__ import annotations

import math
from typing import Any

import pytest
from advise_fakes import advice, best, described, row
from hograd_bench.advise import _plan


def test_the_fastest_is_taken_and_of_equals_the_leanest() -> None:
    assert best(row("rows", seconds_min=3e-3), row("batched_rows", seconds_min=1e-3)) == "batched_rows"
    fast, lean = row("batched_rows", seconds_min=1e-3, peak_bytes=5000), row("rows", seconds_min=1.04e-3)
    assert best(fast, lean) == "rows"
    noisy = {"seconds_iqr": 5e-4}
    slower = row("rows", seconds_min=1.4e-3, **noisy)
    assert best(row("batched_rows", seconds_min=1e-3, peak_bytes=5000, **noisy), slower) == "rows"
    assert best(row("batched_rows", seconds_min=1e-3, peak_bytes=5000), slower) == "batched_rows"


@pytest.mark.parametrize(
    ("other", "status"),
    [
        (row("batched_rows", "wrong", "relative error 0.5 exceeds the tolerance"), "wrong"),
        (row("batched_rows", "unsupported", "no batching rule: x"), "unsupported"),
        (row("batched_rows", seconds_min=1e-6, allowed=False), "refused"),
        (row("batched_rows", seconds_min=None), "failed"),
        (row("batched_rows", "skipped", _plan.FORETOLD + "it takes long"), "not measured"),
    ],
)
def test_what_is_not_known_to_be_right_is_never_taken(other: Any, status: str) -> None:
    assert best(other, row("rows", seconds_min=9e-3)) == "rows"
    (ranking,) = advice(other).rankings
    assert ranking.best is None
    assert ranking.ranked[0].status == status
    assert ranking.why == f"no method gave a result that agrees with float64 truth (1 {status})"


def test_the_memory_budget_is_kept() -> None:
    large = row("batched_rows", seconds_min=1e-6, peak_bytes=10_001)
    assert best(large, row("rows", seconds_min=9e-3)) == "rows"
    (ranking,) = advice(large).rankings
    assert ranking.why == "no method that is right keeps to the memory budget"
    assert advice(large).snippet() == ""
    assert not advice(large).given


def test_an_estimate_is_shown_and_not_taken() -> None:
    estimate, exact = (
        row("hutchinson", operator="hessian_diagonal", seconds_min=1e-6),
        row("columns", operator="hessian_diagonal"),
    )
    found = advice(estimate, exact, names=("hessian_diagonal",))
    assert found.rankings[0].best.method == "columns"  # type: ignore[union-attr]
    assert "hutchinson (estimate)" in str(found)


def test_a_remedy_for_a_kernel_without_second_derivative() -> None:
    reason = (
        "no derivative formula: derivative for aten::_scaled_dot_product_flash_attention_backward is not implemented"
    )
    found = advice(row("rows", "unsupported", reason))
    assert "sdpa_kernel(torch.nn.attention.SDPBackend.MATH)" in found.rankings[0].ranked[0].remedy
    assert "SDPBackend.MATH" in str(found)


def test_laws_say_what_happens_at_a_million() -> None:
    series = [row("batched_rows", n=n, peak_bytes=24 * n * n + 8 * n) for n in (4, 6, 8, 10, 12, 14)]
    found = advice(*series, sizes=(1_000_000,), memory=24 * 2**30)
    peak, result = found.foretold
    assert peak.bytes == 24 * 10**12 + 8 * 10**6
    assert result.bytes == 4 * 10**12
    assert (peak.fits, result.fits) == (False, False)
    assert "at n = 1,000,000 hessian needs 3.64 TiB for its result alone; the largest n that fits is 80,264" in str(
        found
    )
    at = peak.largest
    assert at is not None
    assert 24 * at * at + 8 * at <= 24 * 2**30 < 24 * (at + 2) ** 2 + 8 * (at + 2)  # the law was seen on even sizes


def test_without_a_law_only_the_result_is_foretold() -> None:
    series = [row("batched_rows", n=n, peak_bytes=2**n) for n in (4, 6, 8, 10, 12, 14)]
    (result,) = advice(*series, sizes=(64,)).foretold
    assert (result.method, result.bytes) == ("", 4 * 64 * 64)
    assert advice(*series, sizes=(64,), law_sizes=[]).foretold == ()


def test_an_operator_that_needs_a_model_is_refused_without_one() -> None:
    with pytest.raises(
        ValueError, match=r"fisher_diagonal takes module, .* give a factory that returns \(module, loss"
    ):
        _plan.needs(described(), ["fisher_diagonal"])
    assert _plan.needs(described(form="module"), ["fisher_diagonal"])[0].operator == "fisher_diagonal"
    with pytest.raises(ValueError, match="operator: got 'hessain', expected one of"):
        _plan.needs(described(), ["hessain"])
    assert [n.order for n in _plan.needs(described(), [], order=4)] == [4, 4, 4]


def test_what_is_made_ready_is_taken_where_it_pays() -> None:
    def made(**metrics: Any) -> Any:
        ready = row("rows", **metrics)
        parts = ready["cell"].replace("/eager", "/graph")
        return {**ready, "cell": parts, "preparation": "graph"}

    eager = row("rows", seconds_min=9e-3)
    found = advice(eager, made(seconds_min=1e-3, breakeven_calls=12))
    assert (
        'prepared_H = hograd_core.prepare(hograd_core.hessian, f, x, method="rows", preparation="graph")'
        in found.snippet()
    )
    assert "rows, graph, pays after 12 calls" in str(found)
    (never,) = advice(eager, made(seconds_min=1e-3, breakeven_calls=None)).rankings
    assert never.best is never.at_once is not None


def test_a_size_that_was_measured_is_not_foretold() -> None:
    """Nor is any other, where the law of small sizes misses it."""
    series = [row("batched_rows", n=n, peak_bytes=24 * n * n) for n in (4, 6, 8, 10, 12, 14)]
    hit, missed = (row("batched_rows", n=64, peak_bytes=24 * 64 * 64 + more) for more in (0, 4))
    peak, *_ = advice(*series, hit, sizes=(64,), memory=2**30).foretold
    assert (peak.bytes, peak.measured, peak.law != "") == (24 * 64 * 64, True, True)
    peak, result = advice(*series, missed, sizes=(64,), memory=2**30).foretold
    assert (peak.bytes, peak.measured, peak.law, peak.largest) == (24 * 64 * 64 + 4, True, "", None)
    assert peak.text == "at n = 64 hessian needs 96 KiB by batched_rows, at its peak (measured)"
    assert result.method == ""
    assert [f.method for f in advice(*series, missed, sizes=(640,), memory=2**30).foretold] == [""]


def test_a_call_that_was_not_made_is_foretold_from_one_product_and_marked() -> None:
    skipped = [row(m, "skipped", _plan.FORETOLD + "it takes long") for m in ("rows", "batched_rows", "coloured")]
    found = {r.method: r for r in advice(*skipped).rankings[0].ranked}
    assert found["rows"].foretold == pytest.approx(8 * 3e-4)
    assert [math.isnan(found[name].foretold) for name in ("batched_rows", "coloured")] == [True, True]
    assert not found["rows"].usable
    shown = str(advice(*skipped))
    assert "2.4 ms foretold" in shown
    assert shown.count("not measured: it takes long") == 1  # one line, of all three
    (unknown,) = advice(*skipped[:1], hvp_seconds=None).rankings[0].ranked
    assert math.isnan(unknown.foretold)


def test_what_was_held_at_samples_alone_is_said() -> None:
    sampled = row("rows") | {"details": {"sampled": "3 random products of the result"}}
    found = advice(sampled, row("batched_rows"))
    assert "rows: samples: held against truth at 3 random products of the result alone" in str(found)
    assert "1.0e-07 (samples)" in str(found)
    assert "held against truth at 3 random products" in found.to_html()
    assert "samples" not in str(advice(row("batched_rows")))


def test_remedies_of_what_is_too_large_and_of_what_is_singular() -> None:
    large = row("rows", "skipped", _plan.FORETOLD + "its result alone is over the memory budget")
    singular = row("batched_rows", "unverified", "truth is not finite: f or a derivative to order 2 is not, at x")
    found = {r.method: r.remedy for r in advice(large, singular).rankings[0].ranked}
    assert found["rows"] == "products (hvp) in its place, or a smaller size"
    assert "double torch.where" in found["batched_rows"]


def test_what_a_busy_moment_made_slow_is_not_ranked_as_slow() -> None:
    slow = row("batched_rows", seconds_min=3e-3, gradient_equivalents=3.0)
    assert best(slow, row("rows", seconds_min=2e-3, gradient_equivalents=4.0)) == "batched_rows"

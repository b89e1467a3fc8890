"""What rules do at the edges: noise, several devices, stale runs, hostile names."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from claim_fakes import frame_of, operations
from frame_fakes import frame
from hograd_bench import claims, facts
from hograd_bench.claims import HOLDS, INSUFFICIENT, PARTIAL, REFUTED


def part(rule, metric, cells=None, **parameters):
    table = cells or {"operator": "derivative_vector_product", "n": [8, 16, 32, 64, 128, 256, 512]}
    return claims.Part("P", "It is so.", rule, metric, (table,), "the contrary", "claim", parameters)


def judge(p, rows, operations=lambda *a: 100):
    claim = claims.Claim("X", "title", "statement", "source", (p,))
    (verdict,) = claims.adjudicate(rows, [claim], operations=operations)
    return verdict


SIZES = (8, 16, 32, 64, 128, 256, 512)


def series(metric, f, **common):
    return frame([{"n": n, metric: f(n), **common} for n in SIZES])


GROWTH = part("growth_at_most", "seconds_min", variable="n", limit=1)


def test_overhead_does_not_pass_for_slow_growth():
    assert judge(GROWTH, series("seconds_min", lambda n: 1e-2 + 1e-9 * n * n)).outcome == INSUFFICIENT
    assert judge(GROWTH, series("seconds_min", lambda n: 1e-6 * n)).outcome == HOLDS
    assert judge(GROWTH, series("seconds_min", lambda n: 1e-8 * n * n)).outcome == REFUTED


def test_growth_relative_to_a_baseline():
    relative = part("growth_at_most", "flops", variable="n", limit=0, baseline="gradient/autograd")
    ours = series("flops", lambda n: 8 * n * n + 25 * n)
    quadratic = series("flops", lambda n: 3 * n * n, operator="gradient", method="autograd", order=1)
    linear = series("flops", lambda n: 3 * n, operator="gradient", method="autograd", order=1)
    assert judge(relative, pd.concat([ours, quadratic])).outcome == HOLDS
    assert judge(relative, pd.concat([ours, linear])).outcome == REFUTED
    assert judge(relative, ours).outcome == INSUFFICIENT


def test_alias_fixes_the_order():
    rows = pd.concat([series("peak_bytes", lambda n: 4 * n), series("peak_bytes", lambda n: 4 * n * n, order=3)])
    p = part("growth_at_most", "peak_bytes", {"operator": "hvp", "n": list(SIZES)}, variable="n", limit=1)
    verdict = judge(p, rows)
    assert verdict.outcome == HOLDS
    assert len(verdict.parts[0].findings) == 1


def test_devices_and_machines_are_cases_of_their_own():
    rows = pd.concat(
        [
            series("peak_bytes", lambda n: 4 * n),
            series("peak_bytes", lambda n: 4 * n * n, device="cuda", machine="other"),
        ]
    )
    verdict = judge(part("growth_at_most", "peak_bytes", variable="n", limit=1), rows)
    assert verdict.outcome == PARTIAL
    assert "cuda" in verdict.sentence


def test_latest_run_of_a_counted_metric_counts():
    old = series("peak_bytes", lambda n: 4 * n * n + n % 7, run="a", started="2026-01-01")
    new = series("peak_bytes", lambda n: 4 * n, run="b", started="2026-02-01")
    p = part("growth_at_most", "peak_bytes", variable="n", limit=1)
    assert judge(p, pd.concat([old, new])).outcome == HOLDS
    assert judge(p, pd.concat([new, old])).outcome == HOLDS


def test_fewer_than_half_decided_is_not_a_verdict():
    short = [
        series("seconds_min", lambda n: 1e-6 * n, problem=f"p{i}").assign(
            seconds_min=lambda d: d["seconds_min"].where(d["n"] < 20)
        )
        for i in range(2)
    ]
    rows = pd.concat([series("seconds_min", lambda n: 1e-6 * n), *short])
    verdict = judge(GROWTH, rows)
    assert verdict.outcome == INSUFFICIENT
    assert "2 of 3 cases" in verdict.sentence


BOUND = part("bounded", "gradient_equivalents", low=2, high=4)


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([2.8] * 7, HOLDS),
        ([6.0] * 7, REFUTED),
        ([1.0] * 7, REFUTED),
        ([3.9] * 7, INSUFFICIENT),
        ([2.8, 2.8, 2.8, 2.8, 9.0, 9.0, 9.0], PARTIAL),
    ],
)
def test_bounds_with_noise(values, outcome):
    rows = frame([{"n": n, "gradient_equivalents": v} for n, v in zip(SIZES, values, strict=True)])
    assert judge(BOUND, rows).outcome == outcome


def test_noise_widens_with_noisy_rows_and_with_drift_of_the_gradient():
    rows = series("gradient_equivalents", lambda n: 2.5)
    assert judge(BOUND, rows).outcome == HOLDS
    assert judge(BOUND, rows.assign(noisy=True)).outcome == INSUFFICIENT
    drifting = rows.assign(gradient_seconds_before=1.0, gradient_seconds_after=1.5)
    assert judge(BOUND, drifting).outcome == INSUFFICIENT


def test_counts_have_no_noise():
    p = part("bounded", "flops", high=10, over="f")
    assert judge(p, series("flops", lambda n: 1000.0)).outcome == HOLDS
    assert judge(p, series("flops", lambda n: 1001.0)).outcome == REFUTED
    assert judge(p, series("flops", lambda n: 1000.0), operations=lambda *a: None).outcome == INSUFFICIENT


def test_the_worst_case_is_that_of_all_findings_and_none_where_all_values_are_one():
    p = part("bounded", "flops", high=10)
    several = [series("flops", lambda n: 3, method="a"), series("flops", lambda n: 2, method="b")]
    assert judge(p, several[0]).worst == ""
    several += [series("flops", lambda n, by=by: n // by, method=method) for method, by in (("c", 128), ("d", 64))]
    verdict = judge(p, pd.concat(several, ignore_index=True))
    assert verdict.outcome == HOLDS
    assert verdict.worst.startswith("d on ")
    assert "flops = 8 at n=512" in verdict.worst


def test_zero_is_within_at_most_zero():
    p = part("bounded", "retained_bytes", high=0)
    assert judge(p, series("retained_bytes", lambda n: 0.0)).outcome == HOLDS
    leaking = series("retained_bytes", lambda n: 0.0 if n < 512 else 64.0)
    verdict = judge(p, leaking)
    assert verdict.outcome == PARTIAL
    assert "64 at n=512" in verdict.worst


def test_bounds_need_a_bound():
    with pytest.raises(ValueError, match="neither low nor high"):
        judge(part("bounded", "flops"), series("flops", lambda n: 1.0))


def orders(metric, f, last=6, **common):
    return frame([{"order": k, metric: float(f(k)), **common} for k in range(1, last + 1)])


ORDERS = {"operator": "derivative_vector_product", "order": [1, 2, 3, 4, 5, 6]}


def test_steps():
    p = part("step_at_least", "gradient_equivalents", ORDERS, factor=2, first=2)
    assert judge(p, orders("gradient_equivalents", lambda k: 3**k)).outcome == HOLDS
    assert judge(p, orders("gradient_equivalents", lambda k: 2.05**k)).outcome == INSUFFICIENT
    assert judge(p, orders("gradient_equivalents", lambda k: k)).outcome == REFUTED
    # The step from 1 to 2 is not asked about.
    assert judge(p, orders("gradient_equivalents", lambda k: 3.0 ** max(k, 2))).outcome == HOLDS
    assert judge(p, orders("gradient_equivalents", lambda k: 3**k, last=3)).outcome == INSUFFICIENT


def test_exact_recurrence_decides_growth_in_the_order():
    p = part("family_in_order", "peak_bytes", ORDERS, expect=["exponential", "factorial"])
    chain = judge(p, orders("peak_bytes", lambda k: [1, 3, 8, 21, 55, 144][k - 1] * 1000))
    assert chain.outcome == HOLDS
    assert "a(k) = 3·a(k−1) − a(k−2)" in chain.sentence
    assert judge(p, orders("peak_bytes", lambda k: 100 + 7 * k)).outcome == REFUTED
    assert judge(p, orders("peak_bytes", lambda k: 100)).outcome == REFUTED


def test_family_must_exist():
    p = part("family_in_order", "peak_bytes", ORDERS, expect=["logarithmic"])
    with pytest.raises(ValueError, match="logarithmic"):
        judge(p, orders("peak_bytes", lambda k: k))


DUEL = part("beats", "gradient_equivalents", pairs=[["hvp/jvp_of_grad", "hvp/*"]])


def duel(f, g, metric="gradient_equivalents"):
    return pd.concat([series(metric, f, method="jvp_of_grad"), series(metric, g)], ignore_index=True)


@pytest.mark.parametrize(
    ("f", "outcome"),
    [
        (lambda n: 1.0, HOLDS),
        (lambda n: 4.0, REFUTED),
        (lambda n: 2.1, INSUFFICIENT),
        (lambda n: 4.0 if n < 100 else 1.0, PARTIAL),
    ],
)
def test_duels(f, outcome):
    verdict = judge(DUEL, duel(f, lambda n: 2.0))
    assert verdict.outcome == outcome
    if outcome == PARTIAL:
        (finding,) = verdict.parts[0].findings
        assert "from n ≈" in finding.reason
        assert finding.interval == (64, 128)


def test_a_comparison_says_what_is_compared_with_what():
    (finding,) = judge(DUEL, duel(lambda n: 4.0, lambda n: 2.0)).parts[0].findings
    assert finding.law.startswith("jvp_of_grad takes 2 times what double_backward takes at n=8, 2 at n=16")
    third = series("gradient_equivalents", lambda n: 1.0, method="vjp_of_grad")
    frame = pd.concat([duel(lambda n: 4.0, lambda n: 2.0), third], ignore_index=True)
    (finding,) = judge(DUEL, frame).parts[0].findings
    assert "4 times what the best other method takes" in finding.worst


def test_break_even_number_of_products():
    p = part("beats", "gradient_equivalents", pairs=[["hvp/jvp_of_grad", "hvp/double_backward"]], products_share=0.5)
    verdict = judge(p, duel(lambda n: 2.0, lambda n: 0.2 * n))
    assert verdict.outcome == REFUTED
    assert "51.2 at n=512" in verdict.parts[0].findings[0].law
    assert judge(p, duel(lambda n: 2.0, lambda n: 2.0 * n)).outcome == HOLDS


def test_a_rival_that_was_not_measured_makes_no_case():
    assert judge(DUEL, series("gradient_equivalents", lambda n: 1.0, method="jvp_of_grad")).outcome == INSUFFICIENT


def test_explanation_shows_points_law_and_loser():
    verdict = judge(part("growth_equals", "peak_bytes", variable="n", limit=2), series("peak_bytes", lambda n: 4 * n))
    text = claims.explain(verdict)
    for shown in ("n=8: 32", "peak_bytes = 4·n", "n^2 through peak_bytes = 32", "refuted by: the contrary", "cells: 7"):
        assert shown in text


def test_markdown_names_the_environment_and_escapes():
    hostile = "<script>alert(1)</script>|[x](y)"
    rows = series("peak_bytes", lambda n: 4 * n, problem=hostile)
    verdict = judge(part("growth_equals", "peak_bytes", variable="n", limit=1), rows)
    text = claims.render_markdown(
        [verdict], [{"cpu": {"model": "EPYC", "logical": 2}, "torch": {"version": "2.13.0"}, "gpus": []}, {}]
    )
    assert "<script>" not in text
    assert "|[x]" not in text
    assert "EPYC; cores 2; torch 2.13.0" in text
    assert "not recorded" in text
    for line in text.splitlines():
        if line.startswith("| <"):
            pytest.fail(line)
    assert "no recorded environment" in claims.render_markdown([verdict], [])


@pytest.mark.slow
def test_frame_must_have_the_columns_of_a_row():
    with pytest.raises(ValueError, match="no column 'method'"):
        claims.adjudicate(frame([{"n": 1}]).drop(columns="method"))
    assert all(v.outcome == INSUFFICIENT for v in claims.adjudicate(pd.DataFrame()))


def test_the_frame_is_not_changed():
    rows = series("peak_bytes", lambda n: 4 * n)
    before = rows.copy(deep=True)
    judge(part("growth_equals", "peak_bytes", variable="n", limit=1), rows)
    pd.testing.assert_frame_equal(rows, before)


def test_no_flip_between_holds_and_refuted_over_noisy_runs():
    random = np.random.default_rng(7)
    outcomes = set()
    for _ in range(10):
        values = [1e-5 + 1e-6 * n * math.exp(0.1 * random.standard_normal()) for n in SIZES]
        outcomes.add(
            judge(GROWTH, frame([{"n": n, "seconds_min": v} for n, v in zip(SIZES, values, strict=True)])).outcome
        )
    assert REFUTED not in outcomes


def test_a_lone_size_on_other_threads_is_no_case():
    """It belongs to another sweep, and must not turn a decided part into an undecided one."""
    rows = series("peak_bytes", lambda n: 4 * n, threads=1)
    lone = rows[rows["n"] == 512].assign(threads=2)
    p = part("growth_at_most", "peak_bytes", variable="n", limit=1)
    verdict = judge(p, pd.concat([rows, lone]))
    assert verdict.outcome == HOLDS
    assert len(verdict.parts[0].findings) == 1
    assert judge(p, lone).outcome == INSUFFICIENT
    both = duel(lambda n: 1.0, lambda n: 2.0)
    alone = both[both["n"] == 512].assign(threads=2)
    assert len(judge(DUEL, pd.concat([both.assign(threads=1), alone])).parts[0].findings) == 1


def test_one_bad_minute_decides_no_bound():
    """A single outlier, of any size, neither refutes nor splits; two do; a count needs no second."""
    once = series("gradient_equivalents", lambda n: 30.0 if n == 64 else 2.8)
    twice = series("gradient_equivalents", lambda n: 30.0 if n in (64, 128) else 2.8)
    assert judge(BOUND, once).outcome == INSUFFICIENT
    assert judge(BOUND, twice).outcome == PARTIAL
    lone = once[once["n"] == 64]
    assert judge(BOUND, lone).outcome == INSUFFICIENT
    assert judge(BOUND, pd.concat([lone, lone.assign(run="r2")])).outcome == REFUTED
    exact = part("bounded", "flops", high=10)
    assert judge(exact, series("flops", lambda n: 11.0 if n == 64 else 1.0)).outcome == PARTIAL


def test_claims_are_about_hograds_methods_whatever_peers_were_measured(monkeypatch):
    (part,) = (p for c in claims.load() if c.id == "C9" for p in c.parts if p.id == "C9a")
    claim = claims.Claim("X", "", "", "", (part,))
    rows = frame_of(part, False)
    theirs = rows[rows["operator"] == "derivative_vector_product"].assign(method="jax", gradient_equivalents=1e-9)
    both = pd.concat([rows, theirs.assign(cell=theirs["cell"].str.replace("double_backward", "jax"))])
    monkeypatch.setattr(facts, "_of_peers", set())
    facts.carry({"facts": {"peers": {"jax": {"methods": {"derivative_vector_product/jax": {"how": "jit"}}}}}})
    assert set(facts.without_peers(both)["method"]) == set(rows["method"])
    (without,), (beside,) = (claims.adjudicate(each, [claim], operations=operations) for each in (rows, both))
    assert (beside.outcome, beside.cells) == (without.outcome, without.cells) == (claims.REFUTED, without.cells)
    facts.carry({"facts": {"peers": {"jax": "damaged", "x": {"methods": 3}}}})  # what is no fact is left

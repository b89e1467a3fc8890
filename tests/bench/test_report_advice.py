"""Which method the report advises, from frames of a few rows."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from hograd_bench.report import advice, answers, slowdowns
from hograd_bench.report.data import approximations

import hograd_core


@pytest.fixture
def two_ways() -> pd.DataFrame:
    """HVP: 1 s, 8 MB; Hessian: 5 s, 80 MB; at n = 32."""
    common = {"problem": "p", "n": 32, "depth": 1, "batch": 1, "order": 2, "machine": "m", "dtype": "float32",
              "device": "cpu", "threads": 1, "numel": 32.0, "anchor": "c0", "tolerance": 1e-4,
              "preparation": "eager"}  # fmt: skip
    ways = [
        ("derivative_vector_product", "a", 1.0, 8e6), ("derivative_vector_product", "b", 1.5, 4e6),
        ("derivative_tensor", "full", 5.0, 8e7), ("derivative_tensor", "lean", 9.0, 2e7),
    ]  # fmt: skip
    return pd.DataFrame(
        [{**common, "operator": o, "method": m, "seconds_min": s, "peak_bytes": b} for o, m, s, b in ways]
    )


def test_advice_depends_on_the_number_of_products(two_ways: pd.DataFrame) -> None:
    picks = {n.title: n.situations[0].picks[-1].method for n in advice.advise(two_ways)}
    assert picks == {
        "one Hessian-vector product (any k: Dᵏf·v⋯v)": "a",
        "ten Hessian-vector products (any k: Dᵏf·v⋯v)": "full",
        "the whole Hessian (any k: all of Dᵏf), or n products": "full",
    }


def test_a_need_is_called_what_everybody_calls_it(two_ways: pd.DataFrame) -> None:
    product, _, _ = advice.advise(two_ways)
    assert product.at(2) == "one Hessian-vector product"
    assert product.at(3) == "one Hessian-vector product (any k: Dᵏf·v⋯v), k = 3"
    assert [answer.title for answer in answers.answers([product])] == ["One Hessian-vector product"]


def test_advice_depends_on_memory(two_ways: pd.DataFrame) -> None:
    need = advice.advise(two_ways)[0]
    for budget, pick in zip(need.budgets, need.situations[0].picks, strict=True):
        fits = two_ways[two_ways["peak_bytes"] <= budget]
        best = fits.loc[fits["seconds_min"].idxmin(), "method"] if len(fits) else ""
        assert pick.method == best


def test_advice_leaves_approximations_out(two_ways: pd.DataFrame) -> None:
    loose = two_ways.assign(tolerance=[1e-1, 1e-4, 1e-4, 1e-4])
    assert advice.advise(loose)[0].situations[0].picks[-1].method == "b"


def test_advice_says_where_bytes_were_not_measured(two_ways: pd.DataFrame) -> None:
    elsewhere = two_ways.assign(n=300, numel=300.0, peak_bytes=math.nan)
    small, large = advice.advise(pd.concat([two_ways, elsewhere]))[0].situations
    assert {p.why for p in small.picks} <= {"", "nothing fits"}
    assert [p.why for p in large.picks] == ["bytes not measured"] * (len(large.picks) - 1) + [""]
    assert len(large.picks) > 1


def test_advice_holds_nothing_against_a_method_that_was_not_measured_somewhere(two_ways: pd.DataFrame) -> None:
    b_alone = two_ways[two_ways["method"] == "b"]
    more = [b_alone.assign(problem=f"p{i}") for i in range(2)]
    assert advice.advise(pd.concat([two_ways, *more]))[0].situations[0].picks[-1].method == "a"
    # One point of ten is no evidence.
    more = [b_alone.assign(problem=f"p{i}") for i in range(9)]
    assert advice.advise(pd.concat([two_ways, *more]))[0].situations[0].picks[-1].method == "b"


def test_nothing_is_said_about_a_product_where_only_the_tensor_was_measured(two_ways: pd.DataFrame) -> None:
    dense = two_ways[two_ways["operator"] == "derivative_tensor"]
    assert not [n for n in advice.advise(dense) if "product" in n.title]
    one = advice.advise(pd.concat([two_ways, *(dense.assign(problem=f"p{i}") for i in range(9))]))[0]
    assert one.situations[0].picks[-1].points == 1
    assert one.situations[0].picks[-1].method == "a"


def test_an_approximation_stays_one_where_no_tolerance_was_recorded(two_ways: pd.DataFrame) -> None:
    untold = two_ways.assign(tolerance=math.nan, n=64, numel=64.0)
    told = two_ways.assign(tolerance=[1e-1, 1e-4, 1e-4, 1e-4])
    assert approximations(pd.concat([told, untold])) == {("derivative_vector_product", "a")}
    methods = {p.method for n in advice.advise(pd.concat([told, untold])) for s in n.situations for p in s.picks}
    assert methods
    assert "a" not in methods


def test_advice_holds_it_against_a_method_that_it_does_not_fit(two_ways: pd.DataFrame) -> None:
    a, b, *_ = (two_ways[two_ways["method"] == m] for m in ("a", "b"))
    larger = pd.concat([a.assign(problem="q", peak_bytes=8e9), b.assign(problem="q")])
    need = advice.advise(pd.concat([a, b, larger]))[0]
    picks = {limit: pick.method for limit, pick in zip(need.budgets, need.situations[0].picks, strict=True)}
    assert picks.pop(math.inf) == "a"
    between = [method for limit, method in picks.items() if 8e6 <= limit < 8e9]
    assert between == ["b"] * len(between)
    assert between


def test_a_point_where_nothing_fits_is_held_against_no_method(two_ways: pd.DataFrame) -> None:
    """ "a" does not fit where nobody fits; "full" was never tried there, and is no better for it."""
    a, full = (two_ways[two_ways["method"] == m] for m in ("a", "full"))
    large = [a.assign(problem=f"p{i}", peak_bytes=1e12) for i in range(2)]
    need = advice.advise(pd.concat([a, full, *large]))[0]
    for budget, pick in zip(need.budgets, need.situations[0].picks, strict=True):
        assert pick.method == ("a" if budget >= 8e6 else "")


def test_the_next_best_is_named_with_what_it_takes(two_ways: pd.DataFrame) -> None:
    pick = advice.advise(two_ways)[0].situations[0].picks[-1]
    assert (pick.words, pick.next_best, pick.slower) == ("a", "b", 1.5)
    assert (pick.dimension, pick.seconds, pick.peak) == (32, 1.0, 8e6)
    assert pick.figures == "1 s, 7.63 MiB", "nothing is said of gradients that were not measured"


def test_a_prepared_method_is_another_way(two_ways: pd.DataFrame) -> None:
    prepared = two_ways[two_ways["method"] == "b"].assign(preparation="compiled", seconds_min=0.5)
    pick = advice.advise(pd.concat([two_ways, prepared]))[0].situations[0].picks[-1]
    assert (pick.words, pick.next_best) == ("b, compiled", "a")


def test_memory_is_spoken_of_in_tiers_that_decide() -> None:
    assert advice.budgets_of([8e6, 8e7]) == (2.0**24, 2.0**26, math.inf)
    assert advice.budgets_of([100.0, 2000.0]) == (math.inf,), "below a mebibyte nobody counts"
    assert advice.budgets_of([math.nan]) == (math.inf,)


def test_times_of_the_fastest_are_geometric_means_over_problems(two_ways: pd.DataFrame) -> None:
    other = two_ways.assign(problem="q", seconds_min=[2.0, 2.0, 2.0, 2.0])
    (need, *_) = advice.advise(pd.concat([two_ways, other]))
    lines = {method: float(rows["times"].iloc[0]) for method, _, rows in slowdowns.slowdowns(need.rows, 2)}
    assert lines == pytest.approx({"a": 1.0, "b": 1.5**0.5, "full": 5.0**0.5, "lean": 3.0})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "method", "order", "preparation", "said"),
    [
        ("derivative_vector_product", "double_backward", 2, "eager", 'hvp(f, x, v, method="double_backward")'),
        ("derivative_vector_product", "jvp_of_grad", 3, "eager", ""),
        ("derivative_tensor", "rows", 2, "eager", 'hessian(f, x, method="rows")'),
        ("derivative_tensor", "vmap_hvp", 3, "eager", ""),
        ("directional_derivative", "taylor", 4, "eager", ""),
        ("derivative_vector_product", "double_backward", 2, "graph",
         'prepare(hvp, f, x, method="double_backward", preparation="graph")(x, v)'),
    ],
)  # fmt: skip
def test_the_call_that_is_shown_runs(operator: str, method: str, order: int, preparation: str, said: str) -> None:
    call = advice.Pick(operator, method, 1, 1, 1.0, preparation, order=order).call
    assert said in ("", call)
    x = torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    found = eval(call, {**vars(hograd_core), "f": lambda x: x.sin().prod(), "x": x, "v": x.cos()})
    truth = getattr(hograd_core, operator)(lambda x: x.sin().prod(), x, *[x.cos()] * (operator != "derivative_tensor"),
                                           order=order)  # fmt: skip
    torch.testing.assert_close(found, truth)


def test_operators_that_take_other_things_have_no_call() -> None:
    assert advice.Pick("kfac", "plain", 1, 1, 1.0, order=1).call == ""

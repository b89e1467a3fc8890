from __future__ import annotations

import math

import pytest
from hograd_bench.laws import InsufficientData, OrderLaw, find_recurrence, fit_orders


def law_of(values, **keywords):
    law = fit_orders(dict(enumerate(values, 1)), **keywords)
    assert isinstance(law, OrderLaw)
    return law


def test_chain_bytes_follow_their_recurrence():
    found = find_recurrence([1, 3, 8, 21, 55])
    assert found is not None
    assert found.formula == "a(k) = 3·a(k−1) − a(k−2)"
    assert found.base == pytest.approx((3 + math.sqrt(5)) / 2)
    assert found.extend([1, 3, 8, 21, 55], 2) == [144, 377]


@pytest.mark.parametrize(
    ("values", "formula"),
    [
        ([2, 4, 8, 16], "a(k) = 2·a(k−1)"),
        ([3, 7, 15, 31], "a(k) = 2·a(k−1) + 1"),
        ([5, 4, 3, 2], "a(k) = a(k−1) − 1"),
        ([1, -2, 4, -8], "a(k) = −2·a(k−1)"),
        ([1, 1, 2, 3, 5, 8], "a(k) = a(k−1) + a(k−2)"),
    ],
)
def test_known_recurrences(values, formula):
    found = find_recurrence(values)
    assert found is not None
    assert found.formula == formula
    assert found.extend(values[:-1]) == values[-1:]


def test_a_recurrence_must_be_confirmed():
    assert find_recurrence([1, 3, 8, 21]) is None  # two terms determine it, two fit: nothing confirms
    assert find_recurrence([1, 3, 8, 21, 54]) is None
    assert find_recurrence([1, 2]) is None
    assert find_recurrence([1, 4, 9, 16, 26]) is None


def test_first_term_may_differ():
    found = find_recurrence([100, 1, 3, 9, 27, 81])
    assert found is not None
    assert (found.coefficients, found.start) == ((3,), 1)


def test_recurrence_needs_its_predecessors():
    found = find_recurrence([1, 3, 8, 21, 55])
    assert found is not None
    with pytest.raises(ValueError, match="at least 2"):
        found.extend([1])


@pytest.mark.parametrize(
    ("values", "family"),
    [
        ([1, 3, 8, 21, 55], "exponential"),
        ([2**k for k in range(1, 7)], "exponential"),
        ([k * 2**k for k in range(1, 7)], "exponential"),
        ([100 * k for k in range(1, 7)], "polynomial"),
        ([k * k for k in range(1, 7)], "polynomial"),
        ([k**4 for k in range(1, 7)], "polynomial"),
        ([math.factorial(k) for k in range(1, 8)], "factorial"),
    ],
)
def test_family(values, family):
    law = law_of(values)
    assert law.family == family
    assert law.ratio > 10
    assert sum(law.evidence.values()) == pytest.approx(1)


def test_base_and_power_have_intervals():
    law = law_of([100 * 2.618**k for k in range(1, 6)])
    assert law.base_low <= 2.618 <= law.base_high
    assert "factor 2.6" in law.text
    cubic = law_of([5 * k**3 for k in range(1, 6)])
    assert cubic.power_low <= 3 <= cubic.power_high


def test_runner_up_and_surprise_say_what_lost():
    law = law_of([3.0**k for k in range(1, 7)])
    assert law.runner_up in ("polynomial", "factorial")
    assert law.surprise["polynomial"] < 0.95
    assert law.held_out == (5, 6)


def test_flat_is_called_flat():
    assert "changes by a factor 1.00" in law_of([7.0] * 5).text


def test_prediction_brackets_the_next_order():
    for values, following in (([2.0**k for k in range(1, 6)], 64), ([k * k for k in range(1, 7)], 49)):
        told = law_of(values).predict(len(values) + 1)
        assert told.low <= following <= told.high
    with pytest.raises(ValueError, match="order"):
        law_of([1, 2, 4, 8, 16]).predict(0)


@pytest.mark.parametrize("points", [{}, {1: 1, 2: 2, 3: 4}, {1: 1, 2: 2, 4: 8, 5: 16}, {1: 1, 2: math.nan, 3: 4, 4: 8}])
def test_four_consecutive_orders_are_needed(points):
    assert isinstance(fit_orders(points), InsufficientData)

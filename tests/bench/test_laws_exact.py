from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import sympy
from hograd_bench.laws import ExactLaw, InsufficientData, NoExactLaw, Polynomial, fit_exact
from hypothesis import given, settings
from hypothesis import strategies as st

LENGTHS = (2, 3, 4, 6, 8, 12)
WIDTHS = (8, 16, 32)


def grid(*axes):
    return list(itertools.product(*axes))


def law_of(f, sizes, variables, **keywords):
    found = fit_exact({s: f(*s) for s in sizes}, variables, metric="peak_bytes", **keywords)
    assert isinstance(found, ExactLaw), found
    return found


def test_formula_of_the_sine_chain():
    law = law_of(lambda n, t: 4 * n * (8 * t - 3), grid(WIDTHS, LENGTHS), ("n", "depth"), unit=4)
    assert law.formula == "peak_bytes = 4·n·(8·T − 3)"
    assert law.degree("depth") == law.degree("n") == 1
    assert law.predict({"n": 1000, "depth": 77}) == 4 * 1000 * (8 * 77 - 3)
    assert law.held_out == 18 - 4


def test_constant_that_is_no_whole_number_of_elements_stays_outside():
    law = law_of(lambda n: 4 * n * (n + 2) + 6, [(n,) for n in (3, 4, 5, 7, 9)], ("n",), unit=4)
    assert law.formula == "peak_bytes = 4·n·(n + 2) + 6"


def test_rational_coefficients():
    law = law_of(lambda n: n * (n + 1) // 2, [(n,) for n in (2, 3, 5, 8, 13)], ("n",))
    assert law.polynomial.terms == {(2,): Fraction(1, 2), (1,): Fraction(1, 2)}
    assert law.predict({"n": 100}) == 5050


def test_three_variables_jointly():
    def bytes_(n, t, b):
        return 8 * (n * n * t + b * n + 5)

    law = law_of(bytes_, grid((4, 8, 12, 16), (1, 2, 3), (1, 2, 3)), ("n", "depth", "batch"), unit=8)
    assert law.predict({"n": 64, "depth": 12, "batch": 16}) == bytes_(64, 12, 16)
    assert (law.degree("n"), law.degree("depth"), law.degree("batch")) == (2, 1, 1)


def test_smallest_threshold_from_which_all_sizes_fit():
    law = law_of(lambda t: 10 * t + (7 if t <= 3 else 0), [(t,) for t in (*LENGTHS, 16)], ("depth",))
    assert law.start == {"depth": 4}
    assert law.excluded == ((2,), (3,))
    assert law.polynomial.terms == {(1,): Fraction(10)}
    with pytest.raises(ValueError, match="silent"):
        law.predict({"depth": 3})


def test_law_states_the_lattice_on_which_it_was_seen():
    law = law_of(lambda n: 64 * -(-n // 16), [(n,) for n in (16, 32, 64, 128)], ("n",))
    assert law.step == {"n": 16}
    assert "multiple of 16" in law.text
    fractional = law_of(lambda n: n // 2, [(n,) for n in (2, 4, 8, 10)], ("n",))
    with pytest.raises(ValueError, match="no whole number"):
        fractional.predict({"n": 7})


def test_sizes_that_do_not_vary_are_fixed():
    law = law_of(lambda n, t: 3 * t, [(64, t) for t in LENGTHS], ("n", "depth"))
    assert law.fixed == {"n": 64}
    assert not law.holds_at({"n": 32, "depth": 4})


@pytest.mark.parametrize("shift", [1, -1])
def test_one_byte_off_at_one_size_is_no_law(shift):
    exact = {s: 4 * s[0] * (8 * s[1] - 3) for s in grid(WIDTHS, LENGTHS)}
    for wrong in (12, 8, 6):
        broken = {**exact, (32, wrong): exact[32, wrong] + shift}
        assert not isinstance(fit_exact(broken, ("n", "depth")), ExactLaw)


def test_no_law_says_what_misses():
    found = fit_exact({(n,): 2**n for n in range(2, 12)}, ("n",), metric="flops")
    assert isinstance(found, NoExactLaw)
    assert "flops" in str(found)
    assert "misses" in str(found)


def test_logarithms_and_noise_have_no_law():
    rounded = {(n,): round(1e4 * n * float(sympy.log(n))) for n in range(2, 13)}
    assert isinstance(fit_exact(rounded, ("n",)), NoExactLaw)


def test_contradiction_needs_points():
    found = fit_exact({(n,): 2**n for n in range(2, 6)}, ("n",))
    assert isinstance(found, InsufficientData)
    assert "5 values of n" in found.missing


def test_two_held_out_sizes_at_least():
    assert isinstance(fit_exact({(1,): 1, (2,): 2}, ("n",)), InsufficientData)
    assert isinstance(fit_exact({(1,): 1, (2,): 2, (3,): 3}, ("n",)), InsufficientData)
    four = fit_exact({(1,): 1, (2,): 2, (3,): 3, (4,): 4}, ("n",))
    assert isinstance(four, ExactLaw)
    assert four.held_out == 2


def test_two_values_of_a_variable_do_not_show_its_growth():
    found = fit_exact({(n, t): n * t for n in (8, 16) for t in LENGTHS}, ("n", "depth"))
    assert isinstance(found, InsufficientData)
    assert "values of n" in found.missing


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.5])
def test_not_a_whole_number(value):
    found = fit_exact({(1,): 1, (2,): value, (3,): 3, (4,): 4}, ("n",))
    assert isinstance(found, NoExactLaw)
    assert "whole number" in found.reason


def test_floats_beyond_exactness_are_refused():
    found = fit_exact({(n,): float(2**60 * n) for n in range(1, 7)}, ("n",))
    assert isinstance(found, NoExactLaw)
    assert isinstance(fit_exact({(n,): 2**60 * n for n in range(1, 7)}, ("n",)), ExactLaw)


def test_sizes_must_match_variables():
    with pytest.raises(ValueError, match="sizes"):
        fit_exact({(1, 2): 3}, ("n",))
    with pytest.raises(ValueError, match="sizes"):
        fit_exact({(0,): 3}, ("n",))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-40, 40), min_size=4, max_size=4), st.integers(1, 8))
def test_any_bilinear_law_is_recovered_and_extrapolates(c, unit):
    def f(n, t):
        return unit * (c[0] * n * t + c[1] * n + c[2] * t) + c[3]

    found = fit_exact({s: f(*s) for s in grid(WIDTHS, LENGTHS)}, ("n", "depth"), unit=unit)
    assert isinstance(found, ExactLaw)
    assert found.predict({"n": 8 * 32, "depth": 8 * 12}) == f(256, 96)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 3), st.integers(0, 2)),
        st.fractions(min_value=-50, max_value=50, max_denominator=6).filter(bool),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([1, 2, 4, 8]),
)
def test_the_printed_formula_is_the_polynomial(terms, unit):
    polynomial = Polynomial(("n", "depth"), terms)
    text = polynomial.formula(unit)
    for symbol, plain in (("·", "*"), ("−", "-"), ("²", "**2"), ("³", "**3")):
        text = text.replace(symbol, plain)
    n, t = sympy.symbols("n T")
    meant = sum(sympy.Rational(c.numerator, c.denominator) * n ** e[0] * t ** e[1] for e, c in terms.items())
    assert sympy.expand(sympy.sympify(text, locals={"n": n, "T": t}) - meant) == 0


def test_polynomial_coefficient_and_degree():
    p = Polynomial(("n", "depth"), {(1, 1): Fraction(8), (1, 0): Fraction(-3), (0, 0): Fraction(2)})
    assert p.coefficient("depth", 1).terms == {(1,): Fraction(8)}
    assert (p.degree(), p.degree("n"), p.degree("batch")) == (2, 1, 0)
    with pytest.raises(ValueError, match="depth"):
        p({"n": 3})


def test_a_size_whose_other_values_were_left_out_is_fixed() -> None:
    points = {(16, t): 192 * t + 12 for t in (3, 4, 6, 8, 12, 16)} | {(16, 2): 1, (32, 2): 5}
    law = fit_exact(points, ("n", "depth"))
    assert isinstance(law, ExactLaw)
    assert law.fixed == {"n": 16}
    assert law.predict({"n": 16, "depth": 100}) == 19_212
    with pytest.raises(ValueError, match="n == 16"):
        law.predict({"n": 64, "depth": 100})

from __future__ import annotations

import math

import numpy as np
import pytest
from hograd_bench.laws import FittedLaw, InsufficientData, compare, decide, fit_power

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)


def noisy(f, sizes=SIZES, noise=0.03, seed=0):
    random = np.random.default_rng(seed)
    return list(map(float, sizes)), [f(n) * math.exp(noise * random.standard_normal()) for n in sizes]


def fit(f, **keywords):
    law = fit_power(*noisy(f, **keywords))
    assert isinstance(law, FittedLaw)
    return law


@pytest.mark.parametrize("power", [1, 2, 3])
def test_exponent_lies_in_its_interval(power):
    law = fit(lambda n: 1e-6 * n**power)
    assert law.low <= power <= law.high
    assert law.high - law.low < 0.6
    assert decide(law, "n", power, equal=True) == "holds"
    assert decide(law, "n", power - 1) == "refuted"


def test_overhead_is_told_from_slow_growth():
    law = fit(lambda n: 2e-5 + 1e-6 * n)
    assert law.low <= 1 <= law.high
    assert law.overhead == pytest.approx(2e-5, rel=0.5)
    assert min(law.regime) in (16, 32)


def test_overhead_alone_passes_no_bound():
    """A quadratic below its overhead must not pass for linear: a vacuous pass."""
    law = fit(lambda n: 1e-1 + 1e-9 * n * n)
    assert law.high - law.low > 2
    assert decide(law, "n", 1) == "insufficient data"
    assert decide(law, "n", 1, equal=True) == "insufficient data"


def test_plain_slope_would_have_been_fooled():
    sizes, values = noisy(lambda n: 1e-3 + 1e-9 * n * n, noise=0.02)
    slope = np.polyfit(np.log(sizes), np.log(values), 1)[0]
    assert slope < 0.2
    assert decide(fit_power(sizes, values), "n", 1) != "holds"


def test_an_outlier_at_the_largest_size_decides_nothing():
    sizes, values = noisy(lambda n: 1e-2 + 1e-7 * n, noise=0.02)
    values[-1] *= 3
    assert decide(fit_power(sizes, values), "n", 1) == "insufficient data"


def test_an_outlier_in_the_middle_is_weighed_down():
    sizes, values = noisy(lambda n: 1e-6 * n, noise=0.02)
    values[3] *= 4
    law = fit_power(sizes, values)
    assert isinstance(law, FittedLaw)
    assert law.weights[3] < 0.3
    assert min(w for i, w in enumerate(law.weights) if i != 3) > 0.6
    assert decide(law, "n", 1) == "holds"


def test_missing_values_are_left_out():
    sizes, values = noisy(lambda n: 1e-6 * n)
    values[2], values[4] = math.nan, -1.0
    law = fit_power(sizes, values)
    assert isinstance(law, FittedLaw)
    assert len(law.sizes) == 6


@pytest.mark.parametrize("sizes", [(8, 64, 512), (100, 150, 200, 300), (), (8,), (8, 8, 8, 8)])
def test_too_few_sizes_or_too_narrow(sizes):
    found = fit_power([float(s) for s in sizes], [1.0 * s for s in sizes])
    assert isinstance(found, InsufficientData)
    assert "at least 4 values" in found.missing


def test_evidence_among_named_growths():
    assert max(fit(lambda n: 1e-8 * n * n).evidence.items(), key=lambda i: i[1])[0] == "n²"
    flat = fit(lambda n: 1e-3)
    assert flat.evidence["1"] > 0.3


def test_ratio_has_no_overhead_to_hide_in():
    sizes, values = noisy(lambda n: 3.0)
    law = fit_power(sizes, values, overhead=False)
    assert isinstance(law, FittedLaw)
    assert law.overhead == 0
    assert decide(law, "n", 0) == "holds"
    falling = fit_power(*noisy(lambda n: n**-0.5), overhead=False)
    assert isinstance(falling, FittedLaw)
    assert falling.high < 0


def test_prediction_widens_with_distance_and_coverage():
    law = fit(lambda n: 1e-6 * n, noise=0.1)
    near, far = law.predict(2048), law.predict(65536)
    assert far.high / far.low > near.high / near.low
    assert law.predict(4096, 0.99).high > law.predict(4096, 0.5).high
    assert near.low < near.value < near.high
    with pytest.raises(ValueError, match="size"):
        law.predict(0)
    with pytest.raises(ValueError, match="coverage"):
        law.predict(8, 1.0)


def test_scale_does_not_matter():
    sizes, values = noisy(lambda n: 1e-6 * n * n)
    small, large = fit_power(sizes, values), fit_power(sizes, [1e9 * v for v in values])
    assert isinstance(small, FittedLaw)
    assert isinstance(large, FittedLaw)
    assert (small.low, small.high) == (large.low, large.high)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="values"):
        fit_power([1.0], [])
    with pytest.raises(ValueError, match="level"):
        fit_power([1.0], [1.0], level=1.0)


@pytest.mark.parametrize(
    ("low", "high", "limit", "equal", "expected"),
    [
        (0.8, 1.2, 1, False, "holds"),
        (1.3, 1.6, 1, False, "refuted"),
        (0.9, 1.5, 1, False, "insufficient data"),
        (0.9, 1.2, 2, False, "holds"),
        (0.9, 1.2, 2, True, "refuted"),
        (1.9, 2.1, 2, True, "holds"),
        (1.5, 2.1, 2, True, "insufficient data"),
        (1, 1, 1, True, "holds"),
        (2, 2, 1, False, "refuted"),
    ],
)
def test_intervals_against_limits(low, high, limit, equal, expected):
    assert compare(low, high, limit, equal=equal) == expected


def test_a_bound_does_not_pass_outside_the_asymptotic_regime():
    assert compare(0.8, 1.2, 1, settled=False) == "insufficient data"
    assert compare(1.6, 1.9, 1, settled=False) == "refuted"

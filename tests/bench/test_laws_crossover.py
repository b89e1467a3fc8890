from __future__ import annotations

import math

import pytest
from hograd_bench.laws import Crossover, InsufficientData, crossover

X = (8, 16, 32, 64, 128, 256)


def compare(f, g, noise=0.0, x=X, **keywords):
    result = crossover({v: [f(v)] for v in x}, {v: [g(v)] for v in x}, noise=noise, **keywords)
    assert isinstance(result, Crossover)
    return result


def test_crossing_is_found_between_the_sizes():
    result = compare(lambda n: n, lambda n: 50 + n / 2)
    assert result.kind == "crosses"
    assert (result.low, result.high) == (64, 128)
    assert result.at == pytest.approx(100, rel=0.1)
    assert "from n ≈" in result.text("loop", "batch", "n")


def test_crossing_back():
    result = compare(lambda n: 50 + n / 2, lambda n: n)
    assert result.kind == "crosses back"
    assert "up to n ≈" in result.text("batch", "loop", "n")


def test_clear_winners():
    assert compare(lambda n: 2 * n, lambda n: n).kind == "second wins"
    assert compare(lambda n: n, lambda n: 2 * n).kind == "first wins"


def test_within_noise_is_a_tie():
    result = compare(lambda n: n, lambda n: 1.1 * n, noise=0.1)
    assert result.kind == "tie"
    assert result.at is None
    assert compare(lambda n: n, lambda n: 1.1 * n).kind == "first wins"


def test_interval_widens_with_noise():
    def slow(n):
        return 60 + 0.2 * n

    exact, noisy = compare(lambda n: n, slow), compare(lambda n: n, slow, noise=0.25)
    assert (exact.low, exact.high) == (64, 128)
    assert noisy.kind == "crosses"
    assert noisy.low < exact.low
    assert noisy.high > exact.high


def test_winner_that_becomes_clear_only_at_the_end():
    result = compare(lambda n: n, lambda n: n if n < 100 else n / 3, noise=0.05)
    assert result.kind == "crosses"
    assert (result.low, result.high) == (None, 128)
    assert result.text("loop", "batch", "n") == "batch beats loop from n = 128 on; neither is clear below"
    worse = compare(lambda n: n if n < 100 else n / 3, lambda n: n, noise=0.05)
    assert worse.text("loop", "batch", "n") == "loop beats batch from n = 128 on; neither is clear below"
    mirrored = compare(lambda n: n, lambda n: n if n > 20 else n / 3, noise=0.05)
    assert mirrored.kind == "crosses back"
    assert (mirrored.low, mirrored.high) == (16, None)
    assert mirrored.text("loop", "batch", "n") == "batch beats loop up to n = 16; neither is clear beyond"


def test_changing_places_twice():
    result = compare(lambda n: 1.0, lambda n: 0.5 if 16 <= n <= 64 else 2.0)
    assert result.kind == "several"
    assert "more than once" in result.text("a", "b", "n")


def test_repeats_sharpen():
    many = {x: [1.0] * 16 for x in X}, {x: [1.15] * 16 for x in X}
    assert crossover(*many, noise=0.1).kind == "first wins"


def test_unmeasured_points_do_not_count():
    result = crossover({8: [1], 16: [math.nan], 32: [1], 64: []}, {8: [1], 16: [1], 32: [1], 64: [1]}, noise=0)
    assert isinstance(result, InsufficientData)
    assert "2 points" in result.have

"""The timing rule's guarantees, by exact arithmetic and by simulation; no clock is read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hograd_bench.gate.statistics import policy, sequential
from hograd_bench.gate.statistics.policy import Policy, Reading
from hograd_bench.gate.twins import processes as twins
from hypothesis import given, settings
from hypothesis import strategies as st

CELLS = 30


def crossing_probability(alpha: float, horizon: int, success: float = 0.5) -> float:
    """Exact probability that the wealth ever reaches 1/alpha within ``horizon`` looks, by dynamic programming."""
    alive = {0: 1.0}
    crossed = 0.0
    for n in range(1, horizon + 1):
        following: dict[int, float] = {}
        for s, p in alive.items():
            for step, q in ((1, success), (0, 1 - success)):
                if sequential.log_wealth(s + step, n) >= -math.log(alpha):
                    crossed += p * q
                else:
                    following[s + step] = following.get(s + step, 0.0) + p * q
        alive = following
    return crossed


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.01 / 30])
def test_looking_after_every_pair_keeps_the_error_rate(alpha: float) -> None:
    rate = crossing_probability(alpha, 200)
    assert 0 < rate <= alpha


def test_the_wealth_is_a_martingale_under_a_fair_coin() -> None:
    for n in range(12):
        for s in range(n + 1):
            now = math.exp(sequential.log_wealth(s, n))
            up, down = (math.exp(sequential.log_wealth(s + k, n + 1)) for k in (1, 0))
            assert (up + down) / 2 == pytest.approx(now)


def test_clear_changes_need_hardly_more_pairs_than_any_exact_test_could_do_with() -> None:
    for alpha in (0.05, 0.01, 0.01 / 30, 1e-4, 1e-5):
        fewest = next(n for n in range(1, 99) if sequential.needed(n, alpha) is not None)
        assert math.log2(1 / alpha) <= fewest <= math.log2(1 / alpha) + 2.5


@pytest.mark.slow
@given(st.lists(st.floats(-1, 1), max_size=40), st.floats(0.001, 0.2))
def test_interval_inverts_the_tests(ratios: list[float], alpha: float) -> None:
    low, high = sequential.interval(ratios, alpha)
    assert low <= high
    bar = -math.log(alpha / 2)
    if math.isfinite(low):
        assert sequential.log_wealth_above(ratios, math.nextafter(low, -math.inf)) >= bar
        assert sequential.log_wealth_above(ratios, low) < bar
        assert sequential.log_wealth_below(ratios, math.nextafter(high, math.inf)) >= bar
        assert sequential.log_wealth_below(ratios, high) < bar


def test_interval_covers_at_all_looks_at_once() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(400):
        ratios = rng.standard_t(2, size=40) * 0.01 + 0.03
        looks = (sequential.interval(ratios[:n].tolist(), 0.1) for n in range(1, 41))
        missed += any(not low <= 0.03 <= high for low, high in looks)
    assert missed / 400 <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 400)


def test_nan_is_evidence_for_nothing() -> None:
    ratios = [math.nan] * 30
    assert sequential.log_wealth_above(ratios, 0.0) < 0
    assert sequential.log_wealth_below(ratios, 0.0) < 0
    assert sequential.interval(ratios, 0.1) == (-math.inf, math.inf)
    assert policy.conclude(policy.judge(ratios, 1, Policy())).verdict == "inconclusive"


# Noise of process pairs with identical code. The coin that decides who goes first makes each symmetric given the
# past; nothing else is assumed of them.
def quiet(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.normal(0, 0.01, n)


def heavy(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_t(1.5, n) * 0.02


def drifting(rng: np.random.Generator, n: int) -> np.ndarray:
    """The machine slows down during the run; whoever goes second pays."""
    return rng.choice([-1, 1], n) * np.linspace(0.0, 0.2, n) + rng.normal(0, 0.01, n)


def outliers(rng: np.random.Generator, n: int) -> np.ndarray:
    hit = rng.random(n) < 0.3
    return rng.normal(0, 0.008, n) + hit * rng.choice([-1, 1], n) * rng.exponential(0.5, n)


def two_layouts(rng: np.random.Generator, n: int) -> np.ndarray:
    """Memory layouts of two kinds, 8% apart, drawn anew by every process."""
    return 0.08 * (rng.integers(0, 2, n) - rng.integers(0, 2, n)) + rng.normal(0, 0.005, n)


def busy_for_a_while(rng: np.random.Generator, n: int) -> np.ndarray:
    ratios = rng.normal(0, 0.01, n)
    ratios[3:9] += rng.normal(0, 0.5, 6)
    return ratios


NOISES = [quiet, heavy, drifting, outliers, two_layouts, busy_for_a_while]
Noise = Callable[[np.random.Generator, int], np.ndarray]


def runs(noise: Noise, count: int, shift: float = 0.0, seed: int = 0) -> list[dict[str, policy.Verdict]]:
    """Simulated whole runs; ``shift`` slows the first cell down."""
    rng = np.random.default_rng(seed)
    rules = Policy()
    found = []
    for _ in range(count):
        table = {f"c{i}": noise(rng, rules.max_pairs) for i in range(CELLS)}
        table["c0"] = table["c0"] + math.log1p(shift)
        found.append(
            replay([{c: Reading(float(r[i]), 0.01) for c, r in table.items()} for i in range(rules.max_pairs)])
        )
    return found


def replay(pairs: list[dict[str, Reading]]) -> dict[str, policy.Verdict]:
    """A whole run from given readings."""
    progress = policy.Progress(list(pairs[0]), Policy())
    for pair in pairs:
        progress.add(pair)
    return progress.conclude()


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
def test_identical_code_raises_no_alarm(noise: Noise) -> None:
    alarms = sum(any(v.verdict == "slower" for v in run.values()) for run in runs(noise, 60))
    # At a true rate of 1%, three of 60 or more have probability 2%.
    assert alarms <= 2


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "shift", "least"), [(quiet, 0.05, 58), (quiet, 0.10, 60), (two_layouts, 0.20, 55)])
def test_planted_slowdowns_are_found_and_named(noise: Noise, shift: float, least: int) -> None:
    found = runs(noise, 60, shift)
    assert sum(run["c0"].verdict == "slower" for run in found) >= least
    assert sum(v.verdict == "slower" for run in found for cell, v in run.items() if cell != "c0") <= 2


@pytest.mark.slow
@pytest.mark.parametrize("noise", [heavy, outliers, two_layouts])
def test_noise_is_called_inconclusive_rather_than_same_or_slower(noise: Noise) -> None:
    """A change of 5% drowned in noise may be missed as "inconclusive", hardly ever passed as "same"."""
    called_same = sum(run["c0"].verdict == "same" for run in runs(noise, 100, 0.05))
    assert called_same / 100 <= 2 * Policy().miss_rate


@pytest.mark.slow
def test_a_change_that_does_not_matter_is_never_an_alarm() -> None:
    found = runs(quiet, 100, 0.015)
    # At most in the miss rate of 5%; eleven of 100 or more have probability 1%.
    assert sum(run["c0"].verdict == "slower" for run in found) <= 10
    assert all(run["c0"].verdict != "slower" for run in runs(quiet, 60, 0.005))
    sure = [math.log(1.019)] * 40  # certain, and below what matters
    assert policy.judge(sure, 1, Policy()).verdict == "same"
    assert policy.judge([-r for r in sure], 1, Policy()).verdict == "same"


def test_faster_is_reported_as_such() -> None:
    found = runs(quiet, 20, -0.10)
    assert sum(run["c0"].verdict == "faster" for run in found) >= 19


def test_clear_cells_leave_early() -> None:
    pairs = [run["c1"].pairs for run in runs(quiet, 30)]
    assert np.median(pairs) <= 6


def test_the_alarm_is_shared_over_the_cells() -> None:
    """The more cells, the more pairs an alarm takes: family-wise error, not an error a cell."""
    ratios = [0.2] * 40
    needed = {
        cells: next(n for n in range(1, 41) if policy.judge(ratios[:n], cells, Policy()).verdict == "slower")
        for cells in (1, 30, 1000)
    }
    assert needed[1] < needed[30] < needed[1000]


def test_verdict_carries_effect_and_interval() -> None:
    ratios = [math.log(1.10) + 0.001 * (i % 5) for i in range(20)]
    verdict = policy.judge(ratios, 10, Policy())
    assert verdict.verdict == "slower"
    assert verdict.change == pytest.approx(0.102, abs=0.002)
    assert 1.09 < verdict.low <= verdict.ratio <= verdict.high < 1.11


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"matters": 0.05}, "matters"), ({"alarm_rate": 0.0}, "alarm_rate"), ({"miss_rate": 1.5}, "miss_rate"),
        ({"max_pairs": 0}, "max_pairs"), ({"max_seconds": math.nan}, "max_seconds"), ({"matters": -0.1}, "matters"),
    ],
)  # fmt: skip
def test_nonsense_policies_are_refused(fields: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Policy(**fields)


def test_nonsense_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="5 of 3"):
        sequential.log_wealth(5, 3)
    with pytest.raises(ValueError, match="alpha"):
        sequential.needed(5, 0.0)
    with pytest.raises(ValueError, match="cells"):
        policy.judge([0.1], 0, Policy())


def test_cells_leave_and_wait_as_they_come() -> None:
    progress = policy.Progress(["a", "b", "c"], Policy())
    progress.drop("c")
    for _ in range(6):
        progress.add({"a": Reading(0.0, 0.001)})
    assert progress.left == ["b"]
    assert progress.conclude().keys() == {"a"}
    assert policy.Progress([], Policy()).conclude() == {}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=6), st.floats(0, 0.1))
def test_bets_by_size_are_fair_whatever_the_sizes(sizes: list[float], error: float) -> None:
    """Over all signs of given sizes the wealth averages to what the bettor started with."""
    errors = [error] * len(sizes)
    wealths = [
        math.exp(sequential.log_wealth_symmetric([s * x for s, x in zip(signs, sizes, strict=True)], errors))
        for signs in itertools.product((-1, 1), repeat=len(sizes))
    ]
    assert math.fsum(wealths) / len(wealths) == pytest.approx(1.0)


def test_bets_by_size_find_through_noise_what_signs_beyond_a_threshold_miss() -> None:
    rng = np.random.default_rng(3)
    bar, pairs, by_size, by_sign = math.log(47 / 0.01), 40, 0, 0
    for _ in range(100):
        ratios = (rng.normal(0, 0.035, pairs) + math.log(1.05)).tolist()
        by_size += any(sequential.log_wealth_symmetric(ratios[:n], [0.035] * n) >= bar for n in range(13, pairs + 1))
        by_sign += any(sequential.log_wealth_above(ratios[:n], math.log(1.02)) >= bar for n in range(13, pairs + 1))
    assert by_size >= 95
    assert by_sign <= 50


def test_an_outlier_is_no_evidence_and_ruins_nobody() -> None:
    steady = [0.05] * 13
    sure = sequential.log_wealth_symmetric(steady, [0.01] * 13)
    assert sequential.log_wealth_symmetric([*steady, -2.0], [0.01] * 14) > sure - 2.5
    assert sequential.log_wealth_symmetric([2.0], [0.01]) < math.log(2)
    with pytest.raises(ValueError, match="errors: got 1"):
        sequential.log_wealth_symmetric([0.1, 0.2], [0.1])


def test_a_reading_and_its_error_do_not_care_which_side_is_which() -> None:
    turns = np.random.default_rng(1).normal(0.03, 0.02, 400).tolist()
    a, b = twins.reading(turns), twins.reading([-t for t in turns])
    assert tuple(a) == pytest.approx((-b.ratio, b.error))
    assert a.error == pytest.approx(0.02 / 20 * 1.09, rel=0.2)  # 1.09: what a quarter-trimmed mean of Gaussians costs
    assert tuple(twins.reading([0.5])) == (0.5, 0.0)
    assert abs(twins.reading([*[0.01] * 8, 9.0, -9.0]).ratio - 0.01) < 1e-12


def test_few_cells_are_looked_at_more_closely() -> None:
    assert twins.turns_for(1e6, 10_000) == twins.LEAST_TURNS
    assert twins.LEAST_TURNS < twins.turns_for(1e6, 100) < twins.turns_for(1e6, 50) < twins.turns_for(1e6, 15)
    assert twins.turns_for(1e6, 1) == twins.MOST_TURNS
    assert twins.turns_for(1e8, 1) < twins.turns_for(1e6, 1)
    assert all(twins.turns_for(ns, cells) % twins.STRETCHES == 0 for ns in (1, 3e5, 7e6) for cells in (1, 7, 34))

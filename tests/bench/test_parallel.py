"""Work shared with helpers comes out as without them, whatever happens to them."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hograd_bench import _parallel
from hograd_bench._parallel import crew

HUGE = 10**12
HERE = os.getpid()


def square(value: int) -> tuple[int, int]:
    return value**2, os.getpid()


def square_of_two(value: int, folder: Path) -> tuple[int, int]:
    """Nobody is done before two processes have begun: neither can do it all, however slow the other is to start."""
    (folder / str(os.getpid())).touch()
    until = time.monotonic() + 60
    while len(os.listdir(folder)) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    return square(value)


def picky(value: int) -> int:
    if value >= 3:
        raise ValueError(f"got {value}")
    return value


def dies_elsewhere(value: int) -> int:
    if os.getpid() != HERE:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


@pytest.fixture(autouse=True)
def several_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parallel, "_cores", lambda: 2)


def test_results_come_in_the_order_of_the_items_and_both_work(tmp_path: Path) -> None:
    with crew(HUGE) as made:
        assert made.helped
        results = made.begin(functools.partial(square_of_two, folder=tmp_path), range(20)).results()
    assert [square for square, _ in results] == [i**2 for i in range(20)]
    assert len({pid for _, pid in results}) == 2


@pytest.mark.parametrize("size", [0, HUGE])
def test_the_first_exception_in_order_is_raised(size: int) -> None:
    with crew(size) as made, pytest.raises(ValueError, match="got 3"):
        made.begin(picky, range(12)).results()


def test_few_bytes_have_no_helper() -> None:
    with crew(1000) as made:
        assert not made.helped
        assert {pid for _, pid in made.begin(square, range(3)).results()} == {os.getpid()}


def test_one_core_has_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parallel, "_cores", lambda: 1)
    with crew(HUGE) as made:
        assert not made.helped


@pytest.mark.skipif(sys.platform != "linux", reason="kills a forked process")
def test_a_helper_that_dies_costs_nothing_but_time() -> None:
    with crew(HUGE) as made:
        assert made.begin(dies_elsewhere, range(5)).results() == list(range(5))
        time.sleep(0.2)
        assert made.begin(dies_elsewhere, range(5)).results() == list(range(5))


def test_processes_that_start_anew_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parallel, "FORKS", False)
    with crew(HUGE) as made:
        assert made.begin(abs, [-1, -2, -3]).results() == [1, 2, 3]

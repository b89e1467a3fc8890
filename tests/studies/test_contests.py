"""Contests in turns: which side is whose, and the line of a contest."""

from __future__ import annotations

import pytest
from studies import contests


@pytest.mark.parametrize(("name", "sides"), contests.CONTESTS.items(), ids=contests.CONTESTS)
def test_each_contest_has_sides_of_hograd_first_and_something_to_hold_them_against(name: str, sides: tuple[str, ...]):
    theirs = [contests.is_peer(side) for side in sides]
    assert theirs == sorted(theirs)
    assert {False, True} == set(theirs), name
    assert all(contests._kind(side) in ("compiled", "graph", "eager") for side in sides if not contests.is_peer(side))


def test_the_line_of_a_contest_is_of_the_quickest_sides_that_were_right() -> None:
    cell = "hvp/{}/mlp/n=8,order=2,depth=2,batch=1/float32/cpu/t1/{}"
    least = {
        cell.format("double_backward", "compiled"): 4_000, cell.format("double_backward", "graph"): 70_000,
        cell.format("jax", "eager"): 10_000, cell.format("jax_vjp_of_grad", "eager"): 8_000,
    }  # fmt: skip
    assert contests.line("c", least) == ("c", "4.0", "70.0", "–", "jax_vjp_of_grad eager", "8.0", "0.50")
    assert contests.line("c", {**least, cell.format("double_backward", "compiled"): None})[1:3] == ("–", "70.0")
    assert contests.line("c", dict.fromkeys(least, None)) == ("c", "–", "–", "–", "none", "–", "–")

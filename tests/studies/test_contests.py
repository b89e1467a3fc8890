"""Contests in turns: which side is whose, and the line of a contest."""

from __future__ import annotations

import pytest
from studies.contests._contests import CONTESTS
from studies.contests._table import is_peer, line, preparation


@pytest.mark.parametrize(("name", "sides"), CONTESTS.items(), ids=CONTESTS)
def test_each_contest_has_sides_of_hograd_first_and_something_to_hold_them_against(name: str, sides: tuple[str, ...]):
    theirs = [is_peer(side) for side in sides]
    assert theirs == sorted(theirs)
    assert {False, True} == set(theirs), name
    assert all(preparation(side) in ("compiled", "graph", "eager") for side in sides if not is_peer(side))


def test_the_line_of_a_contest_is_of_the_quickest_sides_that_were_right() -> None:
    cell = "hvp/{}/mlp/n=8,order=2,depth=2,batch=1/float32/cpu/t1/{}"
    least = {
        cell.format("double_backward", "compiled"): 4_000, cell.format("double_backward", "graph"): 70_000,
        cell.format("jax", "eager"): 10_000, cell.format("jax_vjp_of_grad", "eager"): 8_000,
    }  # fmt: skip
    assert line("c", least) == ("c", "4.0", "70.0", "–", "jax_vjp_of_grad eager", "8.0", "0.50")
    assert line("c", {**least, cell.format("double_backward", "compiled"): None})[1:3] == ("–", "70.0")
    assert line("c", dict.fromkeys(least, None)) == ("c", "–", "–", "–", "none", "–", "–")

"""Each adapter with its package. The suite's own environment has none of them: run these in .nox/peers."""

from __future__ import annotations

import os

import pytest
from hograd_bench.peers import Contest, Task, _contests, _truth, peers
from hograd_bench.peers._campaign import installed
from hograd_bench.peers._worker import flat

# Set before the first import of jax, as its worker has it; where there is none, no other test is to see them.
if installed(peers()["JAX"]) is not None:
    os.environ |= {name: os.environ.get(name, value) for name, value in peers()["JAX"].variables.items()}

SMALL = {"n": 4, "depth": 1, "batch": 6, "dtype": "float64"}


def cases():
    """Each way of each peer, on the first contest that it enters, at a small size."""
    for peer in peers().values():
        for offer in peer.offers if peer.name != "hograd" else ():
            contest = next(c for c in _contests.contests() if offer in peer.offered(c))
            yield pytest.param(peer, offer, contest, id=f"{peer.name}-{offer.operator}-{offer.way}")


@pytest.mark.filterwarnings("ignore")  # packages' own warnings are theirs
@pytest.mark.parametrize(("peer", "offer", "contest"), list(cases()))
def test_an_offer_is_right(peer, offer, contest):
    if installed(peer) is None:
        pytest.skip(f"{peer.distribution} is not installed here; `nox -s peers` has an environment with it")
    # Rosenbrock in four dimensions has a second minimum, which some methods find: minimisers keep their size.
    small = contest if contest.operator == "minimize" else Contest(**{**vars(contest), **SMALL})
    contestant = offer.build(Task(small))
    standard = _truth.standard(small)
    assert standard.function_error(contestant.value()) <= standard.function_tolerance
    for _ in range(2):
        assert standard.error((contestant.flat or flat)(contestant.call())) <= standard.tolerance
    if contestant.memory is not None:
        assert contestant.memory().peak_bytes > 0

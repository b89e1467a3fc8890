"""Each peer's methods with its package. The suite's own environment has none of them: run these in .nox/peers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hograd_bench import measure, plan, problems
from hograd_bench.peers import PeerMethod, find

import hograd_core

SMALL = {"n": 4, "depth": 1, "batch": 6, "dtype": "float64"}


def cases():
    """Each method of each peer, on the first problem of the preset that can take it, at a small size."""
    found = {}
    for planned in plan.preset("peers"):
        method = find(hograd_core.resolve(planned.cell.operator)[0], planned.cell.method, planned.cell.order)
        if isinstance(method, PeerMethod):
            # Rosenbrock in four dimensions has a second minimum, which some methods find: minimisers keep their size.
            small = SMALL if planned.cell.operator != "local_minimum" else {}
            sizes = problems.get(planned.cell.problem).sizes
            small = {k: v for k, v in small.items() if k == "dtype" or k in sizes}
            found.setdefault((planned.cell.operator, method.name), (method, replace(planned.cell, **small)))
    return [pytest.param(*case, id="-".join(key)) for key, case in found.items()]


@pytest.mark.filterwarnings("ignore")  # packages' own warnings are theirs
@pytest.mark.parametrize(("method", "cell"), cases())
def test_a_method_is_right(method, cell):
    if method.peer.absence:
        pytest.skip(method.peer.absence)
    row = measure.measure(cell, ("accuracy", "memory", "peer"))
    assert row["status"] == "ok", row["reason"]
    assert row["metrics"]["function_error"] <= 64 * 2.3e-16
    assert ("xla_peak_bytes" if method.peer.framework == "JAX" else "peak_bytes") in row["metrics"]

"""Problems whose Hessians are sparse: their entries are found in few products, and are those of the closed form."""

from __future__ import annotations

import pytest
import torch
from hograd_bench import problems
from hograd_bench.problems import Spec

import hograd_core
from hograd_core.sparse import SparseHessian

# Problem, entries of its pattern, colours at the most, sizes.
SPARSE = [
    ("rosenbrock", lambda n: 3 * n - 2, 3, (5, 40)),
    ("ring", lambda n: 3 * n, 4, (5, 40)),
    ("arrowhead", lambda n: 3 * n - 2, 2, (5, 40)),
    ("surface", lambda n: n**2 + 6 * (n - 1) ** 2, 9, (3, 8)),  # three pairs a cell: its slopes' and the slopes' own
]


@pytest.mark.parametrize(("name", "entries", "colours", "sizes"), SPARSE, ids=[row[0] for row in SPARSE])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_entries_in_few_products(name, entries, colours, sizes, dtype) -> None:
    for n in sizes:
        instance = problems.get(name).instance(Spec(n), dtype)
        exact = problems.get(name).instance(Spec(n), dtype, precise=True).closed_form
        found = SparseHessian(instance.f, instance.x)
        assert found.colours <= colours
        assert found.nonzeros == entries(n)
        assert exact is not None
        assert exact.tensor is not None
        matrix = found.dense(instance.x)
        true = exact.tensor(2)
        assert true is not None
        assert float((matrix - true).norm()) <= 20 * torch.finfo(dtype).eps * float(true.norm())
        assert torch.equal(hograd_core.sparse_hessian(instance.f, instance.x).to_dense(), matrix)

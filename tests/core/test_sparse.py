"""Sparse Hessians: patterns that hold all that is not zero, colourings that can be read, exact results and counts."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sparse_cases import CASES, F64, arrowhead, point, rosenbrock
from torch import Tensor

import hograd_core
from hograd_core.sparse import SparseHessian
from hograd_core.sparse._colouring import colouring, smallest_last, star_colouring
from hograd_core.sparse._sets import Sets, sets


@pytest.mark.parametrize("name", CASES)
def test_all_that_is_not_zero_is_in_the_pattern_and_right(name: str) -> None:
    f, n = CASES[name]
    x = point(n)
    true = hograd_core.hessian(f, x)
    ours = SparseHessian(f, x)
    inside = torch.zeros(n, n, dtype=torch.bool)
    inside[ours.pattern] = True
    assert bool(inside[true != 0].all()), "an entry is missing"
    assert torch.equal(inside, inside.T)
    matrix = ours.dense(x)
    torch.testing.assert_close(matrix, true, rtol=1e-12, atol=1e-12)
    assert torch.equal(matrix, matrix.T)
    assert torch.equal(ours.sparse(x).to_dense(), matrix)
    full = ours.colours == n
    assert ours.products == 2 * (ours.colours + (0 if full else 1))


# What is known of each problem: entries of the Hessian, and colours of it.
KNOWN = [("rosenbrock", 34, 3), ("chain", 25, 3), ("separable", 7, 1), ("arrowhead", 31, 2), ("grid", 174, 6),
         ("constant matrix with zeros", 16, 3), ("power one", 1, 1), ("linear", 0, 1), ("constant", 0, 1)]  # fmt: skip


@pytest.mark.parametrize(("name", "entries", "colours"), KNOWN)
def test_patterns_are_no_larger_than_they_need_to_be(name: str, entries: int, colours: int) -> None:
    f, n = CASES[name]
    ours = SparseHessian(f, point(n))
    assert (ours.nonzeros, ours.colours) <= (entries, colours)


@pytest.mark.parametrize("n", [5, 50, 500])
def test_colours_do_not_grow_with_n(n: int) -> None:
    assert SparseHessian(rosenbrock, point(n)).colours == 3
    assert SparseHessian(arrowhead, point(n)).colours == 2


def test_an_operation_without_a_rule_is_full() -> None:
    ours = SparseHessian(lambda x: torch.linalg.svdvals(x.reshape(3, 2)).sum(), point(6))
    assert ours.colours == 6


class Lying(torch.autograd.Function):
    """Its forward pass says that nothing is mixed; its backward pass mixes."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.square()

    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return g.flip(0) * g


def test_a_function_with_its_own_backward_is_full() -> None:
    assert SparseHessian(lambda x: Lying.apply(x.square()).sum(), point(4)).colours == 4


def test_a_wrong_pattern_is_noticed_by_one_product() -> None:
    def hooked(x: Tensor) -> Tensor:
        y = x.square()
        y.register_hook(lambda g: g + 0.1 * x.flip(0))  # a gradient that no forward operation explains
        return y.sum()

    x = point(6)
    assert SparseHessian(hooked, x).colours == 1
    for found in (hograd_core.hessian(hooked, x, method="coloured"), hograd_core.sparse_hessian(hooked, x).to_dense()):
        torch.testing.assert_close(found, hograd_core.hessian(hooked, x), rtol=1e-12, atol=1e-12)


def test_where_f_branches_the_pattern_is_found_anew() -> None:
    def branches(x: Tensor) -> Tensor:
        return x.square().sum() if float(x[0].detach()) > 0 else x.prod()

    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)
    ours = SparseHessian(branches, x)
    assert ours.colours == 1
    torch.testing.assert_close(ours.dense(-x), hograd_core.hessian(branches, -x))
    assert ours.colours == 4
    torch.testing.assert_close(ours.dense(x), 2 * torch.eye(4, dtype=F64))


def test_one_more_product_checks_and_no_more() -> None:
    x, calls = point(100), []

    def counted(x: Tensor) -> Tensor:
        calls.append(1)
        return rosenbrock(x)

    ours = SparseHessian(counted, x)
    assert (len(calls), ours.products) == (1, 0)
    ours.sparse(x + 1)
    assert (len(calls), ours.products) == (2, ours.colours + 1)


def random_pattern(n: int, edges: int, seed: int) -> Sets:
    drawn = torch.randint(n, (2, edges), generator=torch.Generator().manual_seed(seed))
    i, j = torch.cat([drawn, drawn.flip(0), torch.arange(n).expand(2, n)], 1)
    return sets(i, j, n, n)


@pytest.mark.parametrize(("n", "edges"), [(6, 5), (20, 15), (20, 40), (30, 60), (40, 200), (60, 30)])
@pytest.mark.parametrize("seed", range(5))
def test_star_colourings_have_no_two_coloured_path_of_four(n: int, edges: int, seed: int) -> None:
    pattern = random_pattern(n, edges, seed)
    parts = pattern.members.split(pattern.sizes.tolist())
    near = [[j for j in part.tolist() if j != i] for i, part in enumerate(parts)]
    order = smallest_last(near)
    assert sorted(order) == list(range(n))
    colours = star_colouring(near, order)
    assert all(colours[i] != colours[j] for i in range(n) for j in near[i])
    for b in range(n):
        for a, c in itertools.permutations(near[b], 2):
            if colours[a] == colours[c]:
                assert all(colours[d] != colours[b] for d in near[c] if d != b), (a, b, c)


@pytest.mark.parametrize("seed", range(8))
def test_every_symmetric_matrix_is_recovered_from_its_products(seed: int) -> None:
    n = 25
    pattern = random_pattern(n, 5 * seed + 10, seed)
    if seed % 2:  # with a row that is full
        hub, every = torch.full((n,), 3), torch.arange(n)
        i, j = torch.cat([pattern.rows, hub, every]), torch.cat([pattern.members, every, hub])
        pattern = sets(i, j, n, n)
    plan = colouring(pattern)
    values = torch.randn(n, n, dtype=F64, generator=torch.Generator().manual_seed(seed))
    matrix = torch.zeros(n, n, dtype=F64)
    matrix[plan.rows, plan.columns] = (values + values.T)[plan.rows, plan.columns]
    seeds = F.one_hot(plan.colours, plan.count).to(F64)
    products = matrix @ seeds
    torch.testing.assert_close(
        products[plan.read_row, plan.read_colour], matrix[plan.rows, plan.columns], rtol=0, atol=1e-14
    )


def test_rows_that_are_nearly_full_cost_a_colour_each() -> None:
    def two_hubs(x: Tensor) -> Tensor:
        return (x[0] * x[2:].sin()).sum() + (x[1] * x[2:].cos()).sum() + (x[3:] * x[2:-1]).sum()

    assert SparseHessian(two_hubs, point(60)).colours == 2 + 3


def test_the_result_is_compressed_rows_without_a_warning() -> None:
    x = point(8).float()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = hograd_core.sparse_hessian(rosenbrock, x)
    assert (found.layout, found.dtype, found.shape) == (torch.sparse_csr, torch.float32, (8, 8))
    assert not found.requires_grad
    v = torch.ones(8)
    torch.testing.assert_close(found @ v, hograd_core.hvp(rosenbrock, x, v))


def test_any_shape_and_structure_of_x() -> None:
    x = point(12)
    true = hograd_core.hessian(rosenbrock, x)

    def of_matrix(a: Tensor) -> Tensor:
        return rosenbrock(a.T.reshape(-1))

    turned = x.reshape(4, 3).T
    found = hograd_core.hessian(of_matrix, turned, method="coloured")
    torch.testing.assert_close(found, hograd_core.hessian(of_matrix, turned))
    parts = {"a": x[:5], "b": x[5:].reshape(7, 1)}
    ours = SparseHessian(lambda p, s: s * rosenbrock(torch.cat([p["a"], p["b"][:, 0]])), parts, args=(2.0,))
    torch.testing.assert_close(ours.dense(parts), 2 * true)


def test_the_dense_result_can_be_differentiated_further() -> None:
    x, v = point(6), point(6, 1)
    found = hograd_core.gradient(lambda z: (hograd_core.hessian(rosenbrock, z, method="coloured") @ v) @ v, x)
    true = hograd_core.derivative_vector_product(rosenbrock, x, v, 3)
    torch.testing.assert_close(found, true)


def test_what_is_not_finite_does_not_spread() -> None:
    x = torch.tensor([0.0, 1.0, 2.0], dtype=F64)

    def f(x: Tensor) -> Tensor:
        return x.pow(1.5).sum() + x[1] * x[2]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hograd_core.NotFiniteWarning)
        found, true = (hograd_core.hessian(f, x, method=m) for m in ("coloured", "rows"))
    torch.testing.assert_close(found, true, equal_nan=True)


def test_refusals_name_what_was_wrong() -> None:
    ours = SparseHessian(rosenbrock, point(5))
    with pytest.raises(ValueError, match=r"x: got shape \(6,\), expected \(5,\)"):
        ours.dense(point(6))
    with pytest.raises(TypeError, match=r"x: got"):
        SparseHessian(rosenbrock, [1.0])
    with pytest.raises(hograd_core.UnsupportedError, match=r"inside a functorch transform|plain tensors"):
        torch.func.jacrev(lambda z: hograd_core.hessian(rosenbrock, z, method="coloured"))(point(6))


def test_verify_holds_a_sparse_result_against_differences() -> None:
    hograd_core.sparse_hessian(rosenbrock, point(5), verify=True)


def test_a_default_device_other_than_that_of_x_changes_nothing() -> None:
    x = point(9)
    true = hograd_core.hessian(rosenbrock, x)
    with torch.device("meta"):
        found = hograd_core.hessian(rosenbrock, x, method="coloured")
    torch.testing.assert_close(found, true)

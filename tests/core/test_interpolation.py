"""Mixed partial derivatives from shared directions: exact weights, how many directions, values against formulas."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from core_fakes import normal
from torch import Tensor, nn

from hograd_core import UnsupportedError
from hograd_core.applications import _pinn_truth  # noqa: F401 (registers the truths)
from hograd_core.applications._interpolation import fewest, interpolated, sums, weight_of
from hograd_core.applications._partials import taylor
from hograd_core.applications._polarisation import Expansion, Index, expand
from hograd_core.applications.pinn import burgers, field_derivatives, partial_derivatives, residual
from hograd_core.reference import reference, relative_error, tolerance


def every(d: int, *orders: int) -> list[Index]:
    return [index for k in orders for index in itertools.combinations_with_replacement(range(d), k)]


def directions(expansions: Sequence[Expansion | None]) -> int:
    return len({direction for e in expansions if e is not None for direction, _ in e.terms})


@pytest.mark.parametrize(("d", "degree"), [(1, 5), (2, 2), (2, 5), (3, 3), (3, 4), (4, 3)])
def test_weights_are_exact(d: int, degree: int) -> None:
    """On the form (a·z)^m, whose derivatives are m! Πaᵢ: in fractions, to the last digit, for all orders m."""
    a = [Fraction(2), Fraction(-3), Fraction(5), Fraction(7, 2)][:d]
    for i in itertools.product(range(degree + 1), repeat=d):
        order = sum(i)
        if 0 < order <= degree:
            found = sum(
                (weight_of(i, j) * sum(x * n for x, n in zip(a, j, strict=True)) ** order for j in sums(d, degree)),
                start=Fraction(0),
            )
            assert found == math.factorial(order) * math.prod(x**n for x, n in zip(a, i, strict=True))


def test_a_worked_family() -> None:
    """∂²/∂x∂y from e_x, e_y and e_x + e_y; with orders counted by coefficients, not derivatives."""
    assert interpolated((0, 1), 3, 2).terms == (((0, 1, 0), -1.0), ((1, 0, 0), -1.0), ((1, 1, 0), 1.0))
    assert interpolated((2, 2), 3, 2).terms == (((0, 0, 1), 2.0),)


@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_all_of_an_order_and_below_take_as_many_directions_as_there_are_of_the_order(d: int, k: int) -> None:
    assert directions(fewest(tuple(every(d, k)), d)) == math.comb(d + k - 1, k)
    assert directions(fewest(((), *every(d, *range(1, k + 1))), d)) == math.comb(d + k - 1, k)


def test_how_many_directions_polarisation_takes() -> None:
    """The tensors of orders 2, 3 and 4 in five coordinates: shared by merging alone, d² of order 2."""
    polarised = [directions([expand(index, 5) for index in every(5, k)]) for k in (2, 3, 4)]
    assert polarised == [25, 85, 225]
    assert [directions(fewest(tuple(every(5, k)), 5)) for k in (2, 3, 4)] == [15, 35, 70]


@pytest.mark.parametrize("seed", range(30))
def test_never_more_directions_than_polarisation(seed: int) -> None:
    choose = random.Random(seed)
    d = choose.randint(1, 4)
    indices = [tuple(choose.choices(range(d), k=choose.randint(1, 5))) for _ in range(choose.randint(1, 8))]
    assert directions(fewest(tuple(indices), d)) <= directions([expand(index, d) for index in indices])


class Counted:
    """A field that counts the points it is called at."""

    def __init__(self) -> None:
        self.points = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.points += x.shape[0]
        return (x.prod(1) + x.sum(1)).sin()


def test_a_hessian_in_fewer_passes() -> None:
    ours, others, x = Counted(), Counted(), normal(4, 6)
    found = partial_derivatives(ours, x, every(6, 2), method="interpolated_taylor")
    torch.testing.assert_close(found, taylor(others, x, every(6, 2)))
    assert (ours.points, others.points) == (4 * 21, 4 * 36)


def network(d: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(d, 6), nn.Tanh(), nn.Linear(6, 1)).double()


FIELDS = {
    "products": lambda x: (x.prod(1) + (x * x).sum(1)).exp(),
    "rational": lambda x: 1 / (2 + x[:, 0] ** 2 + x[:, -1] ** 2 * x[:, 0]),
    "network": network(3),
    "linear": lambda x: x.sum(1),
    "own data": lambda x: torch.linspace(0, 1, x.shape[0], dtype=x.dtype) * x.sin().sum(1) * x[:, 0],
}


@pytest.mark.parametrize("name", [n for n in FIELDS if n != "own data"])
@pytest.mark.parametrize("orders", [(2,), (0, 1, 2, 3), (4, 1)])
def test_values_are_the_truth(name: str, orders: tuple[int, ...]) -> None:
    x, indices = normal(3, 3, seed=1) * 0.5, every(3, *orders)
    random.Random(0).shuffle(indices)
    indices = [index[::-1] for index in indices]
    found = partial_derivatives(FIELDS[name], x, indices, method="interpolated_taylor")
    true = reference("partial_derivatives", FIELDS[name], x, indices)
    scale = float(true.abs().max())
    torch.testing.assert_close(found, true, rtol=1e-10, atol=1e-12 * scale)


def test_data_of_its_own_at_each_point() -> None:
    x, indices = normal(4, 3, seed=1), every(3, 1, 2)
    found = partial_derivatives(FIELDS["own data"], x, indices, method="interpolated_taylor")
    torch.testing.assert_close(found, partial_derivatives(FIELDS["own data"], x, indices, method="nested_reverse"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    x, indices = normal(3, 3, seed=1).to(dtype), every(3, 0, 1, 2)
    u = network(3).to(dtype)
    true = reference("partial_derivatives", network(3).to(dtype).double(), x.double(), indices)
    found = partial_derivatives(u, x, indices, method="interpolated_taylor")
    assert found.dtype == dtype
    assert not found.requires_grad
    assert relative_error(found, true) <= tolerance(partial_derivatives.method("interpolated_taylor"), dtype, 2)


def test_derivatives_to_train_through() -> None:
    u, x, indices = network(3), normal(4, 3, seed=1), every(3, 1, 2)
    for method in ("interpolated_taylor", "nested_reverse"):
        rows = field_derivatives(u, x, indices, method=method)
        found = torch.autograd.grad(rows.square().sum(), list(u.parameters()), allow_unused=True)
        if method == "interpolated_taylor":
            ours = found
    for a, b in zip(ours, found, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)
    equation = burgers(0.1)
    torch.testing.assert_close(
        residual(network(2), x[:, :2], equation, method="interpolated_taylor"), residual(network(2), x[:, :2], equation)
    )


def test_chunks_change_nothing_and_errors_name_what_is_wrong() -> None:
    x, indices = normal(3, 3), every(3, 3)
    whole = partial_derivatives(network(3), x, indices, method="interpolated_taylor")
    part = partial_derivatives(network(3), x, indices, method="interpolated_taylor", chunk_size=2)
    torch.testing.assert_close(part, whole)
    with pytest.raises(ValueError, match=r"chunk_size.*0"):
        partial_derivatives(network(3), x, indices, method="interpolated_taylor", chunk_size=0)
    with pytest.raises(UnsupportedError, match=r"no Taylor rule for .*igamma"):
        partial_derivatives(
            lambda x: torch.igamma(torch.ones_like(x), x.exp()).sum(1), x, indices, method="interpolated_taylor"
        )

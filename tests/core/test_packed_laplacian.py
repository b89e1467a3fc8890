"""Forward Laplacians packed by element: right values, how much is packed, and when nothing is."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from core_fakes import normal
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hograd_core import prepare
from hograd_core.applications import _forward_laplacian, _pinn_truth  # noqa: F401 (registers the truths)
from hograd_core.applications._forward_laplacian import plan_of
from hograd_core.applications._partials import values
from hograd_core.applications.pinn import laplacian
from hograd_core.reference import reference
from hograd_core.sparse._sets import TooManyError
from hograd_core.taylor._packed import Plan, summed_by_plan

F64 = torch.float64
Field = Callable[[Tensor], Tensor]


@functools.cache
def network(*widths: int, seed: int = 0) -> nn.Sequential:
    """Made once: a trace refuses what draws numbers."""
    torch.manual_seed(seed)
    pairs = itertools.pairwise(widths)
    layers = [layer for i, o in pairs for layer in (nn.Linear(i, o, dtype=F64), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


PARTICLES = 6
KERNEL = normal(1, 1, 3)
ZEROS = normal(3, 8).relu()


def distances(x: Tensor) -> tuple[Tensor, Tensor]:
    r = x.view(-1, PARTICLES, 3)
    d = r[:, :, None] - r[:, None]
    return d, (d.square().sum(-1, keepdim=True) + 0.1).sqrt()


def of_orbitals(x: Tensor) -> Tensor:
    """A network a particle, which meet in a determinant."""
    orbitals = network(3, 8, 8, PARTICLES)(x.view(-1, PARTICLES, 3))
    return torch.linalg.slogdet(orbitals + torch.eye(PARTICLES, dtype=x.dtype))[1]


def of_pairs(x: Tensor) -> Tensor:
    """A network a pair of particles, whose sum is bent."""
    return network(4, 8, 1)(torch.cat(distances(x), -1)).sum((1, 2, 3)).tanh()


def ansatz(x: Tensor) -> Tensor:
    """Orbitals that see the mean of the others, and a factor of pairs."""
    r = x.view(-1, PARTICLES, 3)
    own = network(3, 8, 8)(r)
    seen = torch.cat([own, own.mean(1, keepdim=True).expand_as(own)], -1)
    orbitals = network(16, PARTICLES, seed=1)(seen) * torch.exp(-r.norm(dim=-1, keepdim=True))
    return torch.linalg.slogdet(orbitals + torch.eye(PARTICLES, dtype=x.dtype))[1] + of_pairs(x)


def of_products(x: Tensor) -> Tensor:
    return network(3, 8, 1)(x.reshape(-1, 3)).reshape(x.shape[0], -1).prod(1)


def of_attention(x: Tensor) -> Tensor:
    h = network(3, 8, 8)(x.view(-1, PARTICLES, 3))
    return (torch.softmax(h @ h.mT, -1) @ h).sum((1, 2))


def of_mixed_blocks(x: Tensor) -> Tensor:
    """Blocks of two and of four coordinates, joined in one tensor."""
    small, large = network(2, 4)(x[:, :6].reshape(-1, 3, 2)), network(4, 4)(x[:, 6:].reshape(-1, 3, 4))
    return network(24, 6, 1)(torch.cat([small, large], 1).tanh().flatten(1))


def of_selected(x: Tensor) -> Tensor:
    """Elements that go elsewhere: turned, split, padded, picked, one of them a constant."""
    h = network(3, 4)(x.view(-1, PARTICLES, 3)).transpose(1, 2)
    first, rest = h.split([2, 4], dim=2)
    rest = torch.nn.functional.pad(rest, (1, 0)).flip(2).where(rest.new_ones(5) > 0, 0.0)
    return (torch.cat([first, rest], 2) ** 2).flatten(1).sum(1).exp().reciprocal()


def of_layers(x: Tensor) -> Tensor:
    h = network(3, 8)(x.view(-1, PARTICLES, 3))
    h = torch.nn.functional.layer_norm(h, (8,)) + torch.nn.functional.gelu(h) * h.sigmoid()
    return h.amax(-1).prod(1)


def of_points_last(x: Tensor) -> Tensor:
    """The axis of the points is not the first."""
    h = torch.einsum("npk,kf->pfn", x.view(-1, PARTICLES, 3), network(3, 8)[0].weight.detach().mT)
    return h.tanh().sum(1).prod(0)


def of_points_within(x: Tensor) -> Tensor:
    """Particles and points in one axis, points going fastest."""
    h = x.view(-1, PARTICLES, 3).transpose(0, 1).reshape(-1, 3) @ network(3, 8)[0].weight.detach().mT
    return (h.tanh() + h.reshape(PARTICLES, -1, 8).flip(0).reshape(-1, 8)).reshape(PARTICLES, -1).prod(0)[::8] * 2


def of_zeros(x: Tensor) -> Tensor:
    """A matrix that has zeros now; a kernel takes it as an input."""
    return (x.view(-1, PARTICLES, 3) @ ZEROS).tanh().sum(2).prod(1)


FIRST, SECOND = torch.triu_indices(PARTICLES, PARTICLES, 1, device="cpu")


def of_indexed_pairs(x: Tensor) -> Tensor:
    """Each pair once, by positions."""
    r = x.view(-1, PARTICLES, 3)
    apart = r[:, FIRST] - r[:, SECOND]
    return network(4, 8, 1)(torch.cat([apart, apart.norm(dim=-1, keepdim=True)], -1)).sum((1, 2)).tanh()


def by_place(x: Tensor) -> Tensor:
    """Which particle comes first depends on the point."""
    h = network(3, 8)(x.view(-1, PARTICLES, 3)).sum(2)
    return (h.gather(1, h.argsort(1)) ** 2).prod(1)


class Case(NamedTuple):
    u: Field
    share: float | None
    """Of the work of a row for each direction; None: nothing is packed."""


CASES = {
    "orbitals": Case(of_orbitals, 0.6),
    "pairs": Case(of_pairs, 0.8),
    "ansatz": Case(ansatz, 0.8),
    "indexed pairs": Case(of_indexed_pairs, 0.8),
    "by place": Case(by_place, 0.9),
    "products": Case(of_products, 0.5),
    "attention": Case(of_attention, 0.9),
    "mixed blocks": Case(of_mixed_blocks, 0.8),
    "selected": Case(of_selected, 0.5),
    "layers": Case(of_layers, 0.5),
    "points last": Case(of_points_last, 0.5),
    "points within": Case(of_points_within, 0.9),
    "zeros in a matrix": Case(lambda x: (x @ torch.eye(18, dtype=F64)[:, :9]).sin().prod(1) + of_zeros(x), 0.7),
    "a column": Case(lambda x: of_products(x)[:, None], 0.5),
    "dense": Case(network(18, 8, 1), None),
    "convolution": Case(lambda x: torch.conv1d(x[:, None], KERNEL).sin().flatten(1).sum(1).tanh(), None),
}


def planned(u: Field, x: Tensor) -> Plan | None:
    return plan_of(u, x, [[i] for i in range(x.shape[1])])


@pytest.mark.parametrize("name", CASES)
def test_share_of_work(name: str) -> None:
    u, share = CASES[name]
    plan = planned(u, normal(5, 18))
    if share is None:
        assert plan is None
    else:
        assert plan is not None
        assert plan.work <= share * plan.full, (plan.work, plan.full, plan.steps)


def by_plan(u: Field, x: Tensor, plan: Plan) -> Tensor:
    return summed_by_plan(lambda z: values(u, z), x, torch.ones_like(x), 2, plan, recorded=False)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("name", CASES)
def test_values_are_the_truth(name: str, n: int) -> None:
    """At any number of points, and at others than those that were followed."""
    u, share = CASES[name]
    plan, x = planned(u, normal(n, 18, seed=7)), normal(n, 18, seed=1)
    if plan is None:
        assert share is None or n == 1
        return
    if name == "points within" and n > 2:
        with pytest.raises(TooManyError):
            by_plan(u, x, plan)
        return
    found = by_plan(u, x, plan)
    torch.testing.assert_close(found, reference("laplacian", u, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("particles", [4, 8])
def test_products_are_two_and_three_whatever_the_number_of_particles(particles: int) -> None:
    """Exactly: of a weight matrix, one less where what it meets has no second derivative."""
    widths = (3, 8, 8, 1)

    def u(x: Tensor) -> Tensor:
        return network(*widths)(x.view(-1, particles, 3)).sum((1, 2)).tanh()

    x = normal(5, 3 * particles)
    first, *rest = (2 * 5 * particles * i * o for i, o in itertools.pairwise(widths))
    for method, directions in (("forward_laplacian", 3), ("collapsed_taylor", 3 * particles)):
        p = prepare(laplacian, u, x, method=method, preparation="graph")
        with FlopCounterMode(display=False) as count:
            p(x)
        assert count.get_total_flops() == first * (1 + directions) + sum(rest) * (2 + directions)


def test_a_kernel_looks_at_positions() -> None:
    """Which it takes for those of the trace: for others it goes the eager way."""
    first, second = FIRST.clone(), SECOND.clone()

    def u(x: Tensor) -> Tensor:
        r = x.view(-1, PARTICLES, 3)
        return network(3, 8, 1)(r[:, first] * r[:, second]).sum((1, 2)).tanh()

    x = normal(3, 18)
    p = prepare(laplacian, u, x, method="forward_laplacian", preparation="graph")
    whole = prepare(laplacian, u, x, method="collapsed_taylor", preparation="graph")
    assert p.peak_bytes < whole.peak_bytes / 1.5  # type: ignore[operator]
    for seed in (0, 1):
        x = normal(3, 18, seed=seed)
        torch.testing.assert_close(p(x), reference("laplacian", u, x))
        first.copy_(first.flip(0))
        torch.testing.assert_close(p(x), reference("laplacian", u, x))
        first.copy_(first.flip(0))
    assert (p.preparation, p.traces) == ("graph", 1)


@pytest.mark.slow
@pytest.mark.parametrize("preparation", ["graph", "compiled"])
@pytest.mark.parametrize("name", ["orbitals", "ansatz", "mixed blocks", "dense"])
def test_prepared(name: str, preparation: str) -> None:
    u = CASES[name].u
    p = prepare(laplacian, u, normal(3, 18), method="forward_laplacian", preparation=preparation)
    assert (p.preparation, p.reason) == (preparation, None)
    for seed in (1, 2):
        x = normal(3, 18, seed=seed)
        torch.testing.assert_close(p(x), reference("laplacian", u, x), rtol=1e-10, atol=1e-11)
    assert p.traces == 1

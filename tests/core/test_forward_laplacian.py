"""Laplacians along groups of uncoupled coordinates: which groups, right values, all dtypes, prepared kernels."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import torch
from core_fakes import normal
from torch import Tensor, nn

from hograd_core import UnsupportedError, gradient, prepare
from hograd_core.applications import _forward_laplacian, _pinn_truth  # noqa: F401 (registers the truths)
from hograd_core.applications._forward_laplacian import groups_of
from hograd_core.applications.pinn import laplacian
from hograd_core.reference import reference, relative_error, tolerance

F64 = torch.float64
Field = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def _looks_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_forward_laplacian, "_LEAST", 0)


def network(d: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 5), nn.Tanh(), nn.Linear(5, 4), nn.SiLU(), nn.Linear(4, 1)).double()


def of_blocks(size: int) -> Field:
    net = network(size)
    return lambda x: net(x.reshape(-1, size)).reshape(x.shape[0], -1).sum(1)


def of_neighbours(x: Tensor) -> Tensor:
    return (x[:, 1:] * x[:, :-1].sin()).sum(1) + (x**3).sum(1)


def arrowhead(x: Tensor) -> Tensor:
    return x[:, 0].exp() * (x[:, 1:] ** 2).sum(1)


def grid(x: Tensor) -> Tensor:
    y = x.reshape(-1, 2, 3)
    return ((y[:, 1:] - y[:, :-1]) ** 4).sum((1, 2)) + ((y[..., 1:] - y[..., :-1]) ** 4).sum((1, 2))


def pairwise_networks(x: Tensor) -> Tensor:
    net = network(2)
    return sum(net(x[:, [i, j]]).squeeze(1) for i, j in ((0, 1), (2, 3), (4, 5), (1, 2)))  # type: ignore[return-value]


def by_point(x: Tensor) -> Tensor:
    """Other coordinates meet at other points."""
    return torch.stack([p[0] * p[1] * p[1] if p[2] > 0 else p[0] ** 2 * p[3].exp() + p[4] * p[5] for p in x])


def by_point_unseen(x: Tensor) -> Tensor:
    """The same, read behind the dispatcher."""
    signs = x.detach()[:, 2].numpy() > 0
    return torch.stack([p[0] * p[1] * p[1] if s else p[0] ** 2 * p[3].exp() for p, s in zip(x, signs, strict=True)])


def by_place(x: Tensor) -> Tensor:
    """Which coordinate is squared depends on the point."""
    chosen = x.gather(1, x.argmax(1, keepdim=True)).squeeze(1)
    return chosen**2 * x[:, 0]


# Field, coordinates, groups.
FIELDS: dict[str, tuple[Field, int, int]] = {
    "separable": (lambda x: (x.sin() * x.exp()).sum(1), 6, 1),
    "one network a coordinate": (of_blocks(1), 6, 1),
    "one network a block": (of_blocks(3), 6, 3),
    "chain": (of_neighbours, 6, 2),
    "arrowhead": (arrowhead, 6, 2),
    "grid": (grid, 6, 2),
    "pairs": (pairwise_networks, 6, 2),
    "dense": (network(6), 6, 6),
    "linear": (lambda x: x.sum(1) * 3, 6, 0),
    "bilinear": (lambda x: x[:, 0] * x[:, 1], 6, 0),
    "linear in some": (lambda x: x[:, 0].exp() * x[:, 1:].sum(1), 6, 1),
    "constant": (lambda x: torch.ones(x.shape[0], dtype=x.dtype), 6, 0),
    "a column": (lambda x: (x**2).sum(1, keepdim=True), 6, 1),
    "one coordinate": (lambda x: x[:, 0].sin(), 1, 1),
    "of its own at each point": (lambda x: (normal(5, 6, seed=3) * x**3).sum(1), 6, 1),
    "squeezed": (lambda x: network(6)(x).squeeze(), 6, 6),
    "masked matrix": (lambda x: (x @ torch.eye(6, dtype=x.dtype)).sin().sum(1), 6, 1),
    "convolution": (lambda x: torch.conv1d(x[:, None], normal(1, 1, 3)).sin().sum((1, 2)), 6, 6),
    "norm": (lambda x: x.reshape(-1, 2, 3).norm(dim=2).sum(1), 6, 3),
    "written in place": (lambda x: (x.clone().mul_(2) ** 3).sum(1), 6, 1),
    "gradient inside": (lambda x: gradient(lambda z: (z**4).sum(), x).sum(1), 6, 1),
    "by point": (by_point, 6, 2),
    "by point, unseen": (by_point_unseen, 6, 2),
    "by place": (by_place, 6, 1),
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_values_are_the_truth_and_groups_are_few(name: str, n: int) -> None:
    u, d, groups = FIELDS[name]
    x = normal(5, d, seed=1)[:n]
    if (n != 5 and name == "of its own at each point") or (n == 1 and name == "squeezed"):
        with pytest.raises((ValueError, RuntimeError), match=r"u: returned shape|must match the size"):
            laplacian(u, x, method="forward_laplacian")
        return
    found = laplacian(u, x, method="forward_laplacian")
    # The reference goes point by point, and takes no gradient through a gradient.
    alone = name not in ("of its own at each point", "gradient inside")
    true = reference("laplacian", u, x) if alone else laplacian(u, x, method="nested_reverse")
    torch.testing.assert_close(found, true, rtol=1e-11, atol=1e-11)
    if n == 5:
        assert len(groups_of(u, x)) == groups


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["separable", "chain", "arrowhead", "norm", "dense"])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    u, d, _ = FIELDS[name]
    x = normal(4, d, seed=2).to(dtype)
    if isinstance(u, nn.Module):
        u = network(d).to(dtype)
    true = reference("laplacian", network(d).to(dtype).double() if name == "dense" else u, x.double())
    found = laplacian(u, x, method="forward_laplacian")
    assert found.dtype == dtype
    assert relative_error(found, true) <= tolerance(laplacian.method("forward_laplacian"), dtype, 2)


UNARY = [torch.sin, torch.tanh, torch.exp, lambda t: t * 0.5, lambda t: t**2, lambda t: t - 1.0]
BINARY = [torch.add, torch.mul, torch.sub, lambda a, b: a / (2 + b * b), torch.maximum]


def program(seed: int, d: int) -> Field:
    """A random expression: a sum of terms, each of a few coordinates."""
    choose = random.Random(seed)
    plan = []
    for _ in range(choose.randint(1, 5)):
        count = choose.randint(1, min(3, d))
        steps = [(choose.choice(UNARY), choose.choice(BINARY), choose.choice(UNARY)) for _ in range(count)]
        plan.append((choose.sample(range(d), count), steps))
    outer = choose.choice([lambda t: t, lambda t: t, torch.tanh])

    def u(x: Tensor) -> Tensor:
        total = x[:, 0] * 0
        for coordinates, steps in plan:
            value = torch.ones_like(x[:, 0])
            for c, (inner, joined, after) in zip(coordinates, steps, strict=True):
                value = after(joined(value, inner(x[:, c])))
            total = total + value
        return outer(total)

    return u


@pytest.mark.parametrize("seed", range(40))
def test_random_sums_of_random_terms(seed: int) -> None:
    d = 2 + seed % 6
    u, x = program(seed, d), normal(3, d, seed=seed) * 0.5
    # Nothing in a group is coupled: the mixed derivatives are zero, by the truth of all of them.
    groups = groups_of(u, x)
    pairs = [pair for group in groups for pair in itertools.combinations(group, 2)]
    left_out = [(i, i) for i in range(d) if not any(i in group for group in groups)]
    if pairs + left_out:
        assert bool((reference("partial_derivatives", u, x, pairs + left_out).abs() <= 1e-12).all())
    found = laplacian(u, x, method="forward_laplacian")
    torch.testing.assert_close(found, reference("laplacian", u, x), rtol=1e-10, atol=1e-11)


def test_small_points_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    u, _, _ = FIELDS["separable"]
    assert len(groups_of(u, normal(4, 6))) == 6
    assert len(groups_of(u, normal(200, 6))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("preparation", ["graph", "compiled"])
@pytest.mark.parametrize("name", ["one network a block", "chain", "dense", "masked matrix", "linear"])
def test_prepared(name: str, preparation: str) -> None:
    u, d, _ = FIELDS[name]
    x = normal(4, d, seed=1)
    p = prepare(laplacian, u, x, method="forward_laplacian", preparation=preparation)
    assert (p.preparation, p.reason) == (preparation, None)
    for seed in (1, 2):
        x = normal(4, d, seed=seed)
        torch.testing.assert_close(p(x), reference("laplacian", u, x), rtol=1e-11, atol=1e-11)
    assert p.traces == 1


def test_a_kernel_takes_no_groups_from_values() -> None:
    """A matrix has zeros now; the kernel takes it as an input."""
    matrix = torch.eye(6, dtype=F64)
    p = prepare(
        laplacian, lambda x: (x @ matrix).sin().sum(1), normal(4, 6), method="forward_laplacian", preparation="graph"
    )
    matrix.copy_(normal(6, 6, seed=4))
    x = normal(4, 6, seed=5)
    torch.testing.assert_close(p(x), reference("laplacian", lambda x: (x @ matrix).sin().sum(1), x))
    assert (p.preparation, p.traces) == ("graph", 1)


def test_products_of_a_kernel_are_two_and_a_group() -> None:
    p = prepare(laplacian, of_blocks(3), normal(4, 24), method="forward_laplacian", preparation="graph")
    full = prepare(laplacian, of_blocks(3), normal(4, 24), method="collapsed_taylor", preparation="graph")
    assert p.peak_bytes is not None
    assert full.peak_bytes is not None
    assert p.peak_bytes < full.peak_bytes / 4  # 3 directions instead of 24


def test_inside_a_larger_derivative() -> None:
    x = normal(3, 6, seed=1)
    found = gradient(lambda z: laplacian(of_neighbours, z, method="forward_laplacian").sum(), x)
    torch.testing.assert_close(found, gradient(lambda z: laplacian(of_neighbours, z).sum(), x))


def test_what_u_is_given_stays_as_it_is() -> None:
    x = normal(3, 6, seed=1)
    before = x.clone()
    with pytest.raises(UnsupportedError):
        laplacian(lambda z: z.view(-1, 6).mul_(2).sum(1) ** 2, x, method="forward_laplacian")
    assert torch.equal(x, before)


def test_an_unknown_step_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"no Taylor rule for .*igamma.*use another method"):
        laplacian(lambda x: torch.igamma(torch.ones_like(x), x.exp()).sum(1), normal(3, 6), method="forward_laplacian")
    with pytest.raises(ValueError, match="u: returned shape"):
        laplacian(lambda x: x, normal(3, 6), method="forward_laplacian")

"""Functions with sparse Hessians, or with operations whose dependence has rules of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from core_fakes import rosenbrock
from torch import Tensor

import hograd_core

F64 = torch.float64
W = torch.linspace(-1, 1, 36, dtype=F64).reshape(6, 6)
BAND = torch.diag(torch.full((6,), 2.0, dtype=F64)) - torch.diag(torch.ones(5, dtype=F64), 1)
PLACES = torch.tensor([5, 0, 0, 3, 2, 1, 4])


def chain(x: Tensor) -> Tensor:
    return (x[1:] * x[:-1].sin()).sum()


def grid(u: Tensor) -> Tensor:
    u = u.reshape(8, -1)
    return ((u[1:] - u[:-1]) ** 4).sum() + ((u[:, 1:] - u[:, :-1]) ** 4).sum() + u.exp().sum()


def separable(x: Tensor) -> Tensor:
    return (x.exp() * x.sin()).sum()


def arrowhead(x: Tensor) -> Tensor:
    return (x[0] * x[1:] ** 2).sum() + x[0] ** 3


def written_in_place(x: Tensor) -> Tensor:
    y = torch.zeros(6, dtype=x.dtype)
    y[2:5] = x[:3] * x[1:4]
    y[1] += x[5].exp()
    y.view(2, 3)[0].mul_(x[:3])
    return (y**2).sum()


def moved(x: Tensor) -> Tensor:
    y = torch.cat([x[PLACES], F.pad(x, (1, 0), value=3.0)]).roll(2).flip(0)
    return (y[1:] * y[:-1]).sum() + torch.stack([x[:3], x[3:]]).tril().prod(1).sum()


def gathered(x: Tensor) -> Tensor:
    bins = torch.zeros(4, dtype=x.dtype).scatter_add(0, torch.tensor([0, 1, 1, 2, 3, 3]), x**2)
    more = torch.zeros(3, dtype=x.dtype).index_add(0, torch.tensor([0, 0, 1, 1, 2, 2]), x)
    put = torch.zeros(3, dtype=x.dtype).index_put((torch.tensor([0, 0, 1, 1, 2, 2]),), x, accumulate=True)
    return bins.sin().sum() + (more**3).sum() + put.exp().sum()


def of_products(x: Tensor) -> Tensor:
    a, b = x[:4].reshape(2, 2), x[2:].reshape(2, 2)
    return (a @ b).diagonal().sum() + torch.dot(x[:3], x[3:]) + torch.addmv(x, W.tril(), x).cos()[:2].sum()


CASES: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "rosenbrock": (rosenbrock, 12),
    "chain": (chain, 9),
    "grid": (grid, 40),
    "separable": (separable, 7),
    "arrowhead": (arrowhead, 11),
    "in place": (written_in_place, 6),
    "moved": (moved, 6),
    "gathered": (gathered, 6),
    "products": (of_products, 6),
    "constant matrix with zeros": (lambda x: (BAND @ x).exp().sum() + (x[None] @ BAND).sin().sum(), 6),
    "batch of matrices": (lambda x: torch.bmm(x.reshape(2, 3, 1), x.reshape(2, 1, 3)).sin().sum(), 6),
    "quotient": (lambda x: (x[1:] / (2 + x[:-1] ** 2)).sum() + torch.addcdiv(x, x.flip(0), 2 + x**2).sum(), 6),
    "reductions": (lambda x: x.reshape(3, 2).logsumexp(1).sum() + x.reshape(2, 3).norm(dim=0).sum() + x.max(), 6),
    "softmax": (lambda x: (x.reshape(3, 2).softmax(1) * W[:3, :2]).sum() + x.reshape(3, 2).var(1).sum(), 6),
    "kinks": (lambda x: (x.relu() * x.abs().flip(0)).sum() + torch.where(x > 0, x**2, x.sin()).sum(), 6),
    "sorted": (lambda x: (x[:3].sort().values ** 2).sum() + x[3:].cumsum(0).square().sum(), 6),
    "losses": (lambda x: F.mse_loss(x[:3], x[3:]) + F.smooth_l1_loss(x, W[0], reduction="sum"), 6),
    "layer norm": (lambda x: F.layer_norm(x.reshape(2, 3), (3,)).sin().sum(), 6),
    "convolution": (lambda x: F.conv1d(x[None, None], W[:1, None, :3]).sin().sum(), 6),
    "determinant": (lambda x: torch.linalg.det(x[:4].reshape(2, 2)) + x[4] * x[5], 6),
    "gradient inside": (lambda x: hograd_core.gradient(rosenbrock, x).square().sum(), 6),
    "vmap inside": (lambda x: torch.func.vmap(lambda a: (a[0] * a[1]).sin())(x.reshape(3, 2)).sum(), 6),
    "powers": (lambda x: (x.abs() ** torch.tensor([1.0, 2, 3, 1, 2, 0.5], dtype=x.dtype)).sum() * x[0], 6),
    "power one": (lambda x: x.sum() ** 1 + x[0] ** 2, 6),
    "constant": (lambda x: torch.ones((), dtype=x.dtype), 3),
    "linear": (lambda x: (W[0] * x).sum(), 6),
    "bool and int": (lambda x: ((x > 0).to(x) * x).square().sum() + x[x.argmax()] ** 3, 6),
}  # fmt: skip


def point(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dtype=F64, generator=torch.Generator().manual_seed(seed))

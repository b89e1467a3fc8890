"""A convolutional critic on images: the workload of the gradient penalties."""

from __future__ import annotations

import torch
from torch import nn

import hograd_core
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import IMAGE, MeanOverPixels, product_operations, times, total
from hograd_bench.problems._workloads import squared_error, squared_error_operations


def _operations(s: Spec) -> dict[str, int]:
    images, pixels = 2 * s.batch, IMAGE * IMAGE
    first = product_operations(images * pixels, 9, s.n, bias=True)
    further = product_operations(images * pixels, 9 * s.n, s.n, bias=True)
    tanh = {"transcendental": images * pixels * s.n * s.depth}
    pool = {"add": images * s.n * (pixels - 1), "div": images * s.n}
    head = product_operations(images, s.n, 1, bias=True)
    return total(first, times(s.depth - 1, further), tanh, pool, head, squared_error_operations(images))


@problem(
    "critic_loss",
    formula="f(θ) = mean_b ((D(real_b) − 1)² + D(fake_b)²)/2, D convolutions and tanh, θ its parameters, flat",
    source="Mao et al. 2017, eq. 2 (least-squares GAN), with the penalties of Gulrajani et al. 2017",
    family="application",
    sizes={"n": "channels", "depth": "convolutional layers", "batch": "images of 6 × 6 pixels of each kind"},
    provides=("critic", "real", "fake", "mixing"),
    operations=_operations,
)
def critic_loss(spec: Spec, draw: Draw) -> Instance:
    """Real images are smooth (a random plane wave), fake ones noise; f is the critic's step without a penalty."""
    grid = torch.arange(IMAGE, dtype=torch.float64)
    wave = draw.normal(spec.batch, 3).double().cpu()
    phase = wave[:, 0, None, None] * grid[:, None] + wave[:, 1, None, None] * grid + wave[:, 2, None, None]
    real = draw.tensor(torch.sin(phase).unsqueeze(1))
    fake = draw.normal(spec.batch, 1, IMAGE, IMAGE)
    mixing = draw.uniform(spec.batch, 1, 1, 1)
    layers: list[nn.Module] = []
    for i in range(spec.depth):
        layers += [nn.Conv2d(spec.n if i else 1, spec.n, 3, padding=1), nn.Tanh()]
    critic = draw.module(nn.Sequential(*layers, MeanOverPixels(), nn.Linear(spec.n, 1)))
    targets = torch.cat([torch.ones(spec.batch, 1), torch.zeros(spec.batch, 1)]).to(real)
    f, x = hograd_core.from_module(critic, squared_error, (torch.cat([real, fake]), targets))
    return Instance(f, x, extras={"critic": critic, "real": real, "fake": fake, "mixing": mixing})

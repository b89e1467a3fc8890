"""Training loss of a small classifier of handwritten digits: real images, ten classes."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import hograd_core
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import product_operations, times, total

DIGITS = 10
PIXELS = 16


def _operations(s: Spec) -> dict[str, int]:
    tanh = {"transcendental": s.batch * s.n}
    first = total(product_operations(s.batch, PIXELS, s.n, bias=True), tanh)
    further = total(product_operations(s.batch, s.n, s.n, bias=True), tanh)
    head = product_operations(s.batch, s.n, DIGITS, bias=True)
    # Log-softmax: shift, exp, sum, log, shift for all classes; mean of the picked ones.
    loss = {
        "compare": s.batch * (DIGITS - 1),
        "add": s.batch * (3 * DIGITS - 1) + s.batch - 1,
        "transcendental": s.batch * (DIGITS + 1),
        "div": 1,
    }
    return total(first, times(s.depth - 1, further), head, loss)


@functools.cache
def images() -> tuple[Tensor, Tensor]:
    """The shipped images at 4 x 4 pixels, (400, 16) in float64 with entries k/64 in [0, 1], and their labels."""
    lines = Path(__file__).with_suffix(".txt").with_stem("digits").read_text(encoding="ascii").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    pixels = torch.tensor([[int(c, 17) for c in row] for row, _ in rows], dtype=torch.float64)
    # Means of 2 x 2 pixels: 64 numbers in 0..64, exact in every dtype once divided by 64.
    pooled = F.avg_pool2d(pixels.reshape(-1, 1, 8, 8), 2).reshape(-1, PIXELS) / 16
    return pooled, torch.tensor([int(label) for _, label in rows])


@problem(
    "digits_loss",
    formula="f(θ) = mean_b CE(W h_b + c, y_b), h = tanh(… tanh(W₁ a_b + c₁) …), a_b images of 4 × 4 pixels, θ flat",
    source="images: Alpaydin & Kaynak 1998, UCI (CC BY 4.0), pooled 2 × 2; network: Rumelhart, Hinton & Williams 1986",
    family="application",
    sizes={"n": "width of every hidden layer", "depth": "hidden layers", "batch": "images, drawn from 400"},
    provides=("module", "loss", "inputs", "targets"),
    operations=_operations,
)
def digits_loss(spec: Spec, draw: Draw) -> Instance:
    """Images drawn with replacement, their own labels; weights normal of scale 1/sqrt(fan in)."""
    pixels, labels = images()
    chosen = draw.integers(len(labels), spec.batch).cpu()
    inputs, targets = draw.tensor(pixels[chosen]), draw.tensor(labels[chosen])
    layers: list[nn.Module] = []
    for i in range(spec.depth):
        layers += [nn.Linear(spec.n if i else PIXELS, spec.n), nn.Tanh()]
    module = draw.module(nn.Sequential(*layers, nn.Linear(spec.n, DIGITS)))
    f, x = hograd_core.from_module(module, F.cross_entropy, (inputs, targets))
    extras = {"module": module, "loss": F.cross_entropy, "inputs": inputs, "targets": targets}
    return Instance(f, x, extras=extras)

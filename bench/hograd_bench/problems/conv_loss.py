"""Training loss of a small convolutional network over its flat parameters."""

from __future__ import annotations

from torch import nn

from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._networks import (
    CLASSES,
    IMAGE,
    MeanOverPixels,
    classification,
    cross_entropy_operations,
    product_operations,
    times,
    total,
)


def _operations(s: Spec) -> dict[str, int]:
    pixels = IMAGE * IMAGE
    # A convolution is a product over 9 taps a channel; taps on the zero padding are counted.
    first = product_operations(s.batch * pixels, 9, s.n, bias=True)
    further = product_operations(s.batch * pixels, 9 * s.n, s.n, bias=True)
    tanh = {"transcendental": s.batch * pixels * s.n * s.depth}
    pool = {"add": s.batch * s.n * (pixels - 1), "div": s.batch * s.n}
    head = product_operations(s.batch, s.n, CLASSES, bias=True)
    return total(first, times(s.depth - 1, further), tanh, pool, head, cross_entropy_operations(s.batch))


@problem(
    "conv_loss",
    formula="f(θ) = mean_b CE(W mean_pixels(h_b) + c, y_b), h = tanh(K_d ∗ … tanh(K₁ ∗ a_b)), 3×3 kernels, θ flat",
    source="LeCun et al. 1998; global average pooling: Lin, Chen & Yan 2014, §3.2",
    family="network",
    sizes={"n": "channels", "depth": "convolutional layers", "batch": "images of 6 × 6 pixels"},
    provides=("module", "loss", "inputs", "targets"),
    operations=_operations,
)
def conv_loss(spec: Spec, draw: Draw) -> Instance:
    """Images normal, labels uniform over 3 classes; smooth (tanh and mean pooling, no kinks)."""
    inputs = draw.normal(spec.batch, 1, IMAGE, IMAGE)
    layers: list[nn.Module] = []
    for i in range(spec.depth):
        layers += [nn.Conv2d(spec.n if i else 1, spec.n, 3, padding=1), nn.Tanh()]
    return classification(
        draw.module(nn.Sequential(*layers, MeanOverPixels(), nn.Linear(spec.n, CLASSES))), draw, inputs
    )

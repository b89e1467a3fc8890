"""Growths with known truth: what a verdict ought to be is known before the data are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """A growth and what is true of it.

    Attributes:
        name: shown in tables.
        value: size -> the metric without noise.
        exponent: of its asymptotic growth, up to logarithms.
    """

    name: str
    value: Callable[[float], float]
    exponent: float


# Seconds, of the magnitudes that kernels have: some microseconds of overhead a call, nanoseconds an element.
TIMES = (
    Truth("n", lambda n: 1e-7 * n, 1),
    Truth("n log n", lambda n: 2e-8 * n * math.log(n), 1),
    Truth("n²", lambda n: 1e-9 * n * n, 2),
    Truth("n³", lambda n: 1e-11 * n**3, 3),
    Truth("n + small overhead", lambda n: 5e-6 + 1e-7 * n, 1),
    Truth("n + large overhead", lambda n: 1e-4 + 1e-7 * n, 1),
    Truth("n + overwhelming overhead", lambda n: 1e-2 + 1e-7 * n, 1),
    Truth("n² + large overhead", lambda n: 3e-4 + 1e-9 * n * n, 2),
)
ORDERS = (
    Truth("2ᵏ", lambda k: 100 * 2.0**k, math.inf),
    Truth("2.6ᵏ", lambda k: 100 * 2.618**k, math.inf),
    Truth("3ᵏ + overhead", lambda k: 200 + 100 * 3.0**k, math.inf),
    Truth("k·2ᵏ", lambda k: 50 * k * 2.0**k, math.inf),
    Truth("k", lambda k: 100 * k, 1),
    Truth("k + overhead", lambda k: 300 + 100 * k, 1),
    Truth("k²", lambda k: 100 * k * k, 2),
    Truth("constant", lambda k: 100.0, 0),
)
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Disturbance:
    """What the measurement does to the truth.

    Attributes:
        name: shown in tables.
        sizes: where it is measured.
        outliers: probability that a point is 1.5 to 4 times too slow.
        missing: probability that a cell has no value.
        repeats: independent measurements of each size.
    """

    name: str
    sizes: tuple[int, ...] = SIZES
    outliers: float = 0.0
    missing: float = 0.0
    repeats: int = 1


DISTURBANCES = (
    Disturbance("8 sizes"),
    Disturbance("6 sizes", (16, 64, 256, 512, 1024, 2048)),
    Disturbance("8 sizes, 3 repeats", repeats=3),
    Disturbance("10% outliers", outliers=0.1),
    Disturbance("25% missing", missing=0.25),
    Disturbance("3 sizes", (16, 128, 1024)),
    Disturbance("narrow span", (100, 150, 200, 300)),
)
NOISES = (0.01, 0.05, 0.10, 0.20, 0.30)


def draw(
    truth: Truth, disturbance: Disturbance, noise: float, random: np.random.Generator
) -> tuple[list[float], list[float]]:
    """Sizes and measured values; a missing value is NaN."""
    x = [float(s) for s in disturbance.sizes for _ in range(disturbance.repeats)]
    y = []
    for size in x:
        value = truth.value(size) * math.exp(noise * random.standard_normal())
        if random.random() < disturbance.outliers:
            value *= random.uniform(1.5, 4.0)
        y.append(math.nan if random.random() < disturbance.missing else value)
    return x, y

"""Random probe vectors for stochastic estimators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import check_integer


def probe_generator(seed: int | None, generator: torch.Generator | None) -> torch.Generator:
    """The generator to draw from: ``generator`` itself, or a CPU generator seeded with ``seed``.

    Without either, the seed is drawn from torch's global CPU generator, as torch's own random functions do: repeated
    calls differ, and ``torch.manual_seed`` makes a program reproducible. A CPU generator gives the same probes on every
    device.

    Raises:
        TypeError: the seed is not an int or the generator not a ``torch.Generator``.
    """
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator: got {type(generator).__name__}, expected a torch.Generator or None")
        return generator
    if seed is None:
        seed = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))
    return torch.Generator("cpu").manual_seed(check_integer(seed, "seed", "an int or None"))


def draw(kind: str, n: int, count: int, generator: torch.Generator, like: Any) -> Tensor:
    """``count`` probes as the columns of an (n, count) matrix in the dtype and on the device of ``like``.

    Args:
        kind: "rademacher" (entries ±1), "normal", or "sphere" (uniform on the sphere of radius sqrt n).
        n: length of a probe.
        count: number of probes.
        generator: source of randomness; its state advances.
        like: anything with ``dtype`` and ``device``.

    Returns:
        The matrix of probes; each column has E[z z^T] = I.

    Raises:
        ValueError: unknown kind.
    """
    place = {"dtype": like.dtype, "device": like.device}
    if kind == "rademacher":
        bits = torch.randint(2, (n, count), generator=generator, device=generator.device)
        return (bits * 2 - 1).to(**place)
    normal = torch.randn(n, count, generator=generator, device=generator.device, dtype=torch.float64)
    if kind == "sphere":
        normal = normal * (n**0.5 / torch.linalg.vector_norm(normal, dim=0))
    elif kind != "normal":
        raise ValueError(f"probes: got kind {kind!r}, expected rademacher, normal or sphere")
    return normal.to(**place)

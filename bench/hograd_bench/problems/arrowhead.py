"""All variables meet one: a Hessian with a full row, a full column and a diagonal."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_bench.problems._closed_forms import along_lines, least_squares
from hograd_bench.problems._contract import Draw, Instance, Spec, problem
from hograd_bench.problems._series import Series


@problem(
    "arrowhead",
    formula="f(x) = Σᵢ (xᵢ² + xₙ²)² − 4 xᵢ + 3, i < n",
    source="Bongartz, Conn, Gould & Toint 1995 (CUTE, problem ARWHEAD)",
    family="elementwise",
    sizes={"n": "dimension of x, at least 2"},
    # x², the other's square once, (x² + h)², 4 x; a sum, a difference, a sum a term.
    operations=lambda s: {"mul": 3 * (s.n - 1) + 1, "add": 3 * (s.n - 1) + s.n - 2},
)
def arrowhead(spec: Spec, draw: Draw) -> Instance:
    """x = 1 + 0.3 normal.

    Raises:
        ValueError: n < 2.
    """
    if spec.n < 2:
        raise ValueError(f"n: got {spec.n}, expected >= 2; each term of arrowhead couples a variable with the last")
    x = draw.tensor(1 + draw.normal(spec.n, scale=0.3).double())

    def f(x: Tensor) -> Tensor:
        shaft, hub = x[:-1], x[-1]
        return ((shaft**2 + hub**2) ** 2 - 4 * shaft + 3).sum()

    def parts(x: Series) -> tuple[Series, Series]:
        return x.map(lambda c: c[:-1]), x.map(lambda c: c[-1:].expand(spec.n - 1))

    def value(x: Series) -> Series:
        shaft, hub = parts(x)
        radius = shaft * shaft + hub * hub
        return (radius * radius - shaft * 4.0 + 3.0).map(torch.sum)

    def gradient(x: Series) -> Series:
        shaft, hub = parts(x)
        radius = (shaft * shaft + hub * hub) * 4.0
        by_shaft, by_hub = radius * shaft - 4.0, radius * hub
        pad = torch.nn.functional.pad
        return by_shaft.map(lambda c: pad(c, (0, 1))) + by_hub.map(lambda c: pad(c.sum().reshape(1), (spec.n - 1, 0)))

    def tensor(order: int) -> Tensor:
        # f = Σ r²/2 − 4 x + 3 with r = √2 (x² + h²), quadratic in x.
        root = 2**0.5
        eye = torch.eye(spec.n, dtype=x.dtype, device=x.device)
        to_shaft, to_hub = eye[:-1], eye[-1:].expand(spec.n - 1, -1)
        shaft, hub = x[:-1], x[-1]
        bend = to_shaft[:, :, None] * to_shaft[:, None, :] + to_hub[:, :, None] * to_hub[:, None, :]
        jacobian = 2 * root * (shaft[:, None] * to_shaft + hub * to_hub)
        found = least_squares(root * (shaft**2 + hub**2), jacobian, 2 * root * bend)(order)
        return found - 4 * to_shaft.sum(0) if order == 1 else found

    return Instance(f, x, closed_form=along_lines(x, value, gradient, tensor))

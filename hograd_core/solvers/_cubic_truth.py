"""The truth of the cubic step: its own optimality conditions, solved by bisection on a dense Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from hograd_core._checks import ScalarFunction
from hograd_core.reference import Truth, reference, truth
from hograd_core.solvers.cubic import cubic_newton_step


@truth(cubic_newton_step)
def _cubic_step(f: ScalarFunction, x: Tensor, regularisation: float = 1.0) -> Truth:
    n = x.numel()
    g = reference("gradient", f, x).reshape(n)
    h = reference("derivative_tensor", f, x, order=2).reshape(n, n)
    eye = torch.eye(n, dtype=h.dtype)
    shift = max(0.0, -float(torch.linalg.eigvalsh(h)[0]))
    size = float(torch.linalg.vector_norm(g))

    def step(multiplier: float) -> Tensor:
        solution: Tensor = torch.linalg.solve(h + multiplier * eye, -g)
        return solution

    low, high = shift, shift + (regularisation * size / 2) ** 0.5
    if high > shift:
        for _ in range(200):
            middle = (low + high) / 2
            if middle in (low, high):
                break
            longer = float(torch.linalg.vector_norm(step(middle))) > 2 * middle / regularisation
            low, high = (middle, high) if longer else (low, middle)
    if high == shift or abs(float(torch.linalg.vector_norm(step(high))) - 2 * high / regularisation) > 1e-6 * high:
        # Hard case, or g = 0: the step is not unique (its sign is free), the multiplier is.
        return Truth({"multiplier": torch.tensor(shift, dtype=h.dtype)})
    solution = step(high)
    # Rounding moves the solution of a system by its condition number, here that of H + multiplier I.
    values = torch.linalg.eigvalsh(h + high * eye)
    scale = float(values[-1] / values[0]) * max(float(solution.abs().max()), high)
    return Truth({"step": solution.reshape(x.shape), "multiplier": torch.tensor(high, dtype=h.dtype)}, scale)

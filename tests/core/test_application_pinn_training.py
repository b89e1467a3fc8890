"""Physics-informed networks learn equations whose solution is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hograd_core.applications import _pinn_truth  # noqa: F401 (registers the truths)
from hograd_core.applications.pinn import (
    beam,
    burgers,
    heat,
    residual,
)


class Clamped(nn.Module):
    """A network times a factor, plus a known part: boundary and initial values hold exactly."""

    def __init__(self, d: int, factor, known) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(d, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)).double()
        self.factor, self.known = factor, known

    def forward(self, x: Tensor) -> Tensor:
        return self.known(x) + self.factor(x) * self.inner(x).squeeze(1)


def _sine(x: Tensor) -> Tensor:
    return torch.sin(math.pi * x[:, 0])


def _solved_heat(x: Tensor) -> Tensor:
    return _sine(x) * torch.exp(-x[:, 1])


def _factor(x: Tensor) -> Tensor:
    return x[:, 1] * x[:, 0] * (1 - x[:, 0])


def _heat_forcing(x: Tensor) -> Tensor:
    return (0.1 * math.pi**2 - 1) * _solved_heat(x)


def _burgers_forcing(x: Tensor) -> Tensor:
    decay = torch.exp(-x[:, 1])
    u, u_x = _sine(x) * decay, math.pi * torch.cos(math.pi * x[:, 0]) * decay
    return -u + u * u_x + 0.1 * math.pi**2 * u


def _beam_solution(x: Tensor) -> Tensor:
    return torch.sin(math.pi * x[:, 0]).square()


def _beam_load(x: Tensor) -> Tensor:
    # d⁴/dx⁴ of sin² πx = (1 − cos 2πx)/2.
    return -8 * math.pi**4 * torch.cos(2 * math.pi * x[:, 0])


TRAININGS = {
    "heat": (heat(0.1, _heat_forcing), 2, _factor, _sine, _solved_heat, "taylor", 1.0),
    "burgers": (burgers(0.1, _burgers_forcing), 2, _factor, _sine, _solved_heat, "nested_reverse", 1.0),
    "beam": (
        beam(1.0, _beam_load), 1, lambda x: (x[:, 0] * (1 - x[:, 0])).square(), lambda x: x[:, 0] * 0, _beam_solution,
        "taylor", 8 * math.pi**4,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_pinn_converges(name: str) -> None:
    """Within 2 % of the manufactured solution in the maximum norm, at a fixed seed."""
    equation, d, factor, known, solution, method, scale = TRAININGS[name]
    torch.manual_seed(0)
    u = Clamped(d, factor, known)
    x = torch.quasirandom.SobolEngine(d, scramble=True, seed=0).draw(100, dtype=torch.float64)
    optimiser = torch.optim.LBFGS(u.parameters(), max_iter=80, line_search_fn="strong_wolfe", history_size=30)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = (residual(u, x, equation, method=method) / scale).square().mean()
        loss.backward()
        return loss.detach()

    start = closure()
    optimiser.step(closure)
    assert closure() < 1e-2 * start
    with torch.no_grad():
        fresh = torch.quasirandom.SobolEngine(d, scramble=True, seed=1).draw(200, dtype=torch.float64)
        error = (u(fresh) - solution(fresh)).abs().max() / solution(fresh).abs().max()
    assert error < 0.02

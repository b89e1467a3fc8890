"""Differential equations as residuals of partial derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from hograd_core.applications._polarisation import Index

Forcing = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Equation:
    """A differential equation r = 0.

    Attributes:
        name: what it is called.
        formula: r in one line.
        indices: the partial derivatives that r needs, as tuples of coordinates.
        residual: (points, one tensor (N,) for each index) -> r at every point, shape (N,).
        source: where it is from.
    """

    name: str
    formula: str
    indices: tuple[Index, ...]
    residual: Callable[..., Tensor]
    source: str


def _less(r: Tensor, points: Tensor, forcing: Forcing | None) -> Tensor:
    return r if forcing is None else r - forcing(points)


def heat(diffusivity: float = 1.0, forcing: Forcing | None = None) -> Equation:
    """u_t − α u_xx − g = 0 with points (x, t).

    Args:
        diffusivity: α.
        forcing: g, (N, 2) -> (N,); None: zero.

    Returns:
        The equation.
    """

    def residual(points: Tensor, u_t: Tensor, u_xx: Tensor) -> Tensor:
        return _less(u_t - diffusivity * u_xx, points, forcing)

    return Equation("heat", "u_t − α u_xx − g", ((1,), (0, 0)), residual, "Evans 2010, §2.3")


def burgers(viscosity: float = 0.01, forcing: Forcing | None = None) -> Equation:
    """u_t + u u_x − ν u_xx − g = 0 with points (x, t).

    Args:
        viscosity: ν.
        forcing: g, (N, 2) -> (N,); None: zero.

    Returns:
        The equation.
    """

    def residual(points: Tensor, u: Tensor, u_t: Tensor, u_x: Tensor, u_xx: Tensor) -> Tensor:
        return _less(u_t + u * u_x - viscosity * u_xx, points, forcing)

    indices: tuple[Index, ...] = ((), (1,), (0,), (0, 0))
    return Equation("burgers", "u_t + u u_x − ν u_xx − g", indices, residual, "Raissi et al. 2019, appendix A")


def kuramoto_sivashinsky(forcing: Forcing | None = None) -> Equation:
    """u_t + u u_x + u_xx + u_xxxx − g = 0 with points (x, t).

    Args:
        forcing: g, (N, 2) -> (N,); None: zero.

    Returns:
        The equation.
    """

    def residual(points: Tensor, u: Tensor, u_t: Tensor, u_x: Tensor, u_xx: Tensor, u_xxxx: Tensor) -> Tensor:
        return _less(u_t + u * u_x + u_xx + u_xxxx, points, forcing)

    indices: tuple[Index, ...] = ((), (1,), (0,), (0, 0), (0, 0, 0, 0))
    return Equation(
        "kuramoto_sivashinsky", "u_t + u u_x + u_xx + u_xxxx − g", indices, residual, "Kassam & Trefethen 2005"
    )


def beam(stiffness: float = 1.0, load: Forcing | None = None) -> Equation:
    """EI w_xxxx − q = 0 with points (x,): the static Euler–Bernoulli beam.

    Args:
        stiffness: EI.
        load: q, (N, 1) -> (N,); None: zero.

    Returns:
        The equation.
    """

    def residual(points: Tensor, w_xxxx: Tensor) -> Tensor:
        return _less(stiffness * w_xxxx, points, load)

    return Equation("beam", "EI w_xxxx − q", ((0, 0, 0, 0),), residual, "Timoshenko 1953 (Euler–Bernoulli theory)")

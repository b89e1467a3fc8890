"""Solvers on curvature: truncated conjugate gradients, Newton's method, natural gradients."""

from hograd_core.solvers._conjugate_gradient import CGResult, conjugate_gradient
from hograd_core.solvers._newton_cg import newton_cg
from hograd_core.solvers.cubic import CubicResult, CubicStep, minimize_cubic_newton
from hograd_core.solvers.minimize import NewtonResult, minimize_newton

__all__ = [
    "CGResult", "CubicResult", "CubicStep", "NewtonResult", "conjugate_gradient", "minimize_cubic_newton",
    "minimize_newton", "newton_cg",
]  # fmt: skip

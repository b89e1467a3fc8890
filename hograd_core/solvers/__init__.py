"""Solvers on curvature: truncated conjugate gradients, Newton's method, natural gradients."""

"""Solvers inside larger derivatives: their results come from iterations that no derivative goes through."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hograd_core._entrance import in_transform, kept
from hograd_core._unsupported import UnsupportedError


def refuse_inside_derivative(where: str, *tensors: Any) -> None:
    """Raise where a result would be differentiated further: it would count as a constant, silently.

    Raises:
        UnsupportedError: the call is made inside a larger derivative, at a point that depends on its variable.
    """
    if kept() and (in_transform() or any(isinstance(t, Tensor) and t.requires_grad for t in tensors)):
        raise UnsupportedError(
            where,
            "its result cannot be differentiated further; detach its arguments, or differentiate the equation it "
            "solves (implicit function theorem)",
        )

"""What every operator takes beside its own arguments: which method, with which options. Written once.

@operator(result="x", default="plain", order=1)
def slope(f: ScalarFunction, x: Tensor, **how: Unpack[How]) -> Tensor: ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack as Unpack  # torch itself requires it; typing has it from Python 3.11 on


class How(TypedDict, total=False):
    """Keyword arguments of a call. The first four are every operator's, the rest options of methods.

    A method's option with a new name has its line here, or callers who check types cannot give it.

    Attributes:
        method: name of a method; None: the operator's default.
        repair: compute what PyTorch differentiates wrongly by exact substitutes instead of refusing it.
        verify: hold the result against differences of gradients before it is returned.
        strict: a result that is not finite, where f and its gradient are, is an error instead of a warning.
    """

    method: str | None
    repair: bool
    verify: bool
    strict: bool

    chunk_size: int | None
    distribution: str
    fisher: str
    form: str
    generator: torch.Generator | None
    hessian_method: str | None
    hvp_method: str
    max_iterations: int | None
    max_steps: int | None
    preconditioner: Callable[[Tensor], Tensor] | None
    probes: int
    products: int
    radius: float | None
    relative_tolerance: float | None
    samples: int
    seed: int | None
    step: float | None
    steps: int
    tolerance: float | None

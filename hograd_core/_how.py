"""What every operator takes beside its own arguments: which method, with which options. Written once.

@operator(result="x", default="plain", order=1)
def slope(f: Function[T], x: T, **how: Unpack[How]) -> T: ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack as Unpack  # torch itself requires it; typing has it from Python 3.11 on


class HowInStructure(TypedDict, total=False):
    """Keyword arguments of a call but for ``flat``. Down to ``parameters`` they are every operator's, then methods'.

    A method's option with a new name has its line here, or callers who check types cannot give it.

    Attributes:
        method: name of a method; ``"auto"``: the one that is fastest by what is known (:mod:`hograd_core.auto`); None:
            what auto takes where nothing is known.
        probe: with ``"auto"``: time the candidates on f first, some calls of each.
        repair: compute what PyTorch differentiates wrongly by exact substitutes instead of refusing it.
        verify: hold the result against differences of gradients before it is returned.
        strict: a result that is not finite, where f and its gradient are, is an error instead of a warning.
        args: what f takes after x, not differentiated: ``f(x, *args)``.
        in_dims: as of ``torch.vmap``, for x, v where there is one, and each of ``args``: the axes that count points;
            results have the points as their first axis. ``chunk_size`` then counts points at a time.
        create_graph: leave the result on the graph, to be differentiated further.
        memory: most bytes that the call may take beyond what is alive, its result included: a number, a text like
            ``"2GiB"``, or ``"free"``.
        parameters: which parameters of a model count, by names or patterns of names; the others are constants.
    """

    method: str | None
    probe: bool
    repair: bool
    verify: bool
    strict: bool
    args: tuple[Any, ...]
    in_dims: Any
    create_graph: bool
    memory: int | str | None
    parameters: str | Sequence[str] | None

    chunk_size: int | None
    distribution: str
    fisher: str
    form: str
    generator: torch.Generator | None
    hessian_method: str | None
    hvp_method: str
    max_iterations: int | None
    max_steps: int | None
    out: Tensor | None
    preconditioner: Callable[[Tensor], Tensor] | None
    preparation: Any  # a name, or what prepare returned for hvp of f (dense: or hessian)
    probes: int
    products: int
    radius: float | None
    relative_tolerance: float | None
    samples: int
    seed: int | None
    step: float | None
    steps: int
    tolerance: float | None


class How(HowInStructure, total=False):
    """Keyword arguments of a call.

    Attributes:
        flat: results over all elements of x laid end to end, not in its structure (to type checkers those like x keep
            its type); of an operator of models, whose results are flat where v is: False for structures by the
            parameters' names.
    """

    flat: bool | None

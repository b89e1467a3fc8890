"""What is differentiated: a scalar function of a few numbers that goes through one operator of PyTorch.

A sample of PyTorch's operator database has inputs of any size. The function here moves all its differentiable inputs
together in :data:`DIMENSION` fixed random directions, x(z) = x₀ + P z, so that every sample costs the same and the
derivatives in every input, and across inputs, are compared. Outputs u are scaled to size 1, and the exp(u) summed with
fixed random weights, so that an operator linear in its input has derivatives to get wrong as well.
"""

from __future__ import annotations

import functools
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

DIMENSION = 5
"""Numbers that f is a function of: the usual extent in PyTorch's samples, so that axes mixed up by vmap fit."""
SAMPLES = 3
"""At most so many samples of an operator: first those that differ in what is no tensor."""
LARGEST = 3000
"""Samples with more elements in their differentiable inputs are left out."""


@dataclass(frozen=True)
class Case:
    """One sample of one operator.

    Attributes:
        operator: name in PyTorch's database, or of an own case.
        sample: what the sample is, in words: shapes and what else is passed.
        function: the operator, a function of the list of differentiable inputs.
        inputs: their values, float64.
        seeded: whether the function draws random numbers, so that each call must start from one seed.
    """

    operator: str
    sample: str
    function: Callable[[list[Tensor]], Any]
    inputs: tuple[Tensor, ...]
    seeded: bool = False


def words(value: Any) -> str:
    """A value in a sample's description: tensors by their shapes."""
    if isinstance(value, Tensor):
        kind = "" if value.dtype == torch.float64 else str(value.dtype).removeprefix("torch.")
        return f"{kind}{list(value.shape)}".replace(" ", "")
    if isinstance(value, list | tuple):
        return f"[{', '.join(words(v) for v in value)}]"
    if isinstance(value, dict):
        return ", ".join(f"{k}={words(v)}" for k, v in value.items())
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return str(value)[:60]


def _differentiable(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.requires_grad and tensor.dtype == torch.float64 and tensor.numel() > 0


def _case(info: Any, sample: Any) -> Case | None:
    leaves, spec = tree_flatten((sample.input, tuple(sample.args), dict(sample.kwargs)))
    places = [i for i, leaf in enumerate(leaves) if _differentiable(leaf)]
    if not places or sum(leaves[i].numel() for i in places) > LARGEST:
        return None
    if any(isinstance(leaf, Tensor) and leaf.layout != torch.strided for leaf in leaves):
        return None
    values = tuple(leaves[i].detach().clone() for i in places)
    fixed = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def function(moved: list[Tensor]) -> Any:
        arguments = list(fixed)
        for place, value in zip(places, moved, strict=True):
            arguments[place] = value
        first, args, kwargs = tree_unflatten(arguments, spec)
        out = info.gradcheck_wrapper(info.op, first, *args, **kwargs)
        return sample.output_process_fn_grad(out)

    parts = [words(sample.input), *(words(a) for a in sample.args), words(sample.kwargs)]
    return Case(full_name(info), "; ".join(p for p in parts if p), function, values)


def full_name(info: Any) -> str:
    """Name of an entry of the database with its variant."""
    return f"{info.name}.{info.variant_test_name}" if info.variant_test_name else str(info.name)


@functools.cache
def database() -> dict[str, Any]:
    """PyTorch's entries by name that autograd supports in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return {
        full_name(info): info
        for info in op_db
        if info.supports_autograd and torch.float64 in info.supported_backward_dtypes(torch.device("cpu"))  # type: ignore[no-untyped-call]
    }


def _plain(sample: Any) -> str:
    """What a sample passes that is no tensor."""
    return words([v for v in (*sample.args, *sample.kwargs.items()) if not isinstance(v, Tensor)])


def cases(name: str, limit: int = SAMPLES) -> list[Case]:
    """Usable samples of an operator: of each sort (what is passed beside tensors) one, then a second one."""
    from studies.atlas.own import OWN

    if name in OWN:
        torch.manual_seed(zlib.crc32(name.encode()))
        function, inputs, seeded = OWN[name]()
        sample = "; ".join(words(x) for x in inputs)
        return [Case(name, sample, function, tuple(x.detach().clone() for x in inputs), seeded)]
    info = database()[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    rounds: dict[str, list[Case]] = {}
    for _, sample in zip(range(200), _samples(info), strict=False):
        case = _case(info, sample)
        if case is not None and all(case.sample != other.sample for others in rounds.values() for other in others):
            rounds.setdefault(_plain(sample), []).append(case)
    ordered = [cs[i] for i in range(limit) for cs in rounds.values() if i < len(cs)]
    return ordered[:limit]


def _samples(info: Any) -> Iterator[Any]:
    yield from info.sample_inputs("cpu", torch.float64, requires_grad=True)


def names() -> list[str]:
    """All operators: the database's and our own."""
    from studies.atlas.own import OWN

    return sorted({*database(), *OWN})


def _outputs(result: Any) -> list[Tensor]:
    """Outputs in double precision; of complex ones real and imaginary part."""
    found = []
    for leaf in tree_leaves(result):
        if isinstance(leaf, Tensor) and leaf.dtype == torch.complex128:
            found += [leaf.real, leaf.imag]
        elif isinstance(leaf, Tensor) and leaf.dtype == torch.float64:
            found.append(leaf)
    return found


def scalar(case: Case) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """f and the point z = 0 for a case.

    Raises:
        ValueError: no differentiable output in double precision.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{case.operator} {case.sample}".encode()))
    size = sum(x.numel() for x in case.inputs)
    dimension = min(size, DIMENSION)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    if size <= DIMENSION:
        directions = list(torch.split(torch.eye(size, dtype=torch.float64), [x.numel() for x in case.inputs]))
    else:
        directions = [draw(x.numel(), dimension) for x in case.inputs]
    evaluate = functools.partial(_evaluate, case, directions)
    z = torch.zeros(dimension, dtype=torch.float64)
    with torch.enable_grad():
        moved = z.clone().requires_grad_()
        found = _outputs(evaluate(moved))
    if not case.seeded and any(not torch.equal(a, b) for a, b in zip(found, _outputs(evaluate(moved)), strict=True)):
        return scalar(replace(case, seeded=True))
    # What PyTorch declares not differentiable (saved statistics, indices) is a constant to every method.
    kept = [i for i, y in enumerate(found) if y.requires_grad]
    if not kept:
        raise ValueError("no differentiable output in double precision")
    reference = [found[i].detach() for i in kept]
    sizes = [float(y.abs().nan_to_num(0, 0, 0).max()) if y.numel() else 1.0 for y in reference]
    scales = [1 / max(size, 1.0) for size in sizes]
    weights = [draw(y.numel()) for y in reference]

    def f(z: Tensor) -> Tensor:
        # Few operations around the operator: each costs milliseconds in nested forward mode.
        parts = []
        outputs = _outputs(evaluate(z))
        for y, scale, weight in zip([outputs[i] for i in kept], scales, weights, strict=True):
            u = y if scale == 1 else y * scale
            parts.append(torch.dot(torch.exp(u).reshape(-1), weight))
        return functools.reduce(torch.add, parts)

    return f, z


def _evaluate(case: Case, directions: list[Tensor], z: Tensor) -> Any:
    if case.seeded:
        torch.manual_seed(0)
    return case.function([x + (p @ z).view(x.shape) for x, p in zip(case.inputs, directions, strict=True)])

"""What a problem is. One file beside this one declares one problem; nothing else is edited.

@problem("quadratic", formula="f(x) = xᵀAx/2 + bᵀx", source="...", family="dense",
         sizes={"n": "dimension of x"}, operations=lambda spec: {...})
def quadratic(spec: Spec, draw: Draw) -> Instance: ...
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Spec:
    """Sizes of one instance; a problem reads those it declares in ``sizes``."""

    n: int
    depth: int = 1
    batch: int = 1


class Draw:
    """Seeded data for an instance, the same numbers for every dtype and device.

    Values are drawn in float64 on the CPU and rounded to ``dtype``. With ``precise=True`` they are then
    held in float64 on the CPU: the truth is computed at exactly the point that the method sees, so its
    error does not contain the rounding of the inputs.
    """

    def __init__(self, dtype: torch.dtype, device: str = "cpu", seed: int = 0, *, precise: bool = False) -> None:
        self._rounded_to = dtype
        self.precise = precise  # a problem may then choose a slower kernel that is differentiable at every order
        self.dtype = torch.float64 if precise else dtype
        self.device = torch.device("cpu" if precise else device)
        self.seed = seed
        self._generator = torch.Generator().manual_seed(seed)

    def tensor(self, values: Tensor) -> Tensor:
        """``values`` rounded to the dtype of the cell, in the dtype and on the device of this instance."""
        if not values.dtype.is_floating_point:
            return values.to(self.device)
        return values.to(torch.float64).to(self._rounded_to).to(self.device, self.dtype)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Independent normal numbers of standard deviation ``scale``."""
        return self.tensor(torch.randn(shape, generator=self._generator, dtype=torch.float64) * scale)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Independent uniform numbers in [low, high)."""
        drawn = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        return self.tensor(low + (high - low) * drawn)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Independent int64 numbers in [0, high), for class labels and the like."""
        return torch.randint(high, shape, generator=self._generator).to(self.device)

    def module(self, module: nn.Module) -> nn.Module:
        """``module`` with every parameter redrawn (normal, scale 1/sqrt(fan in)), in this dtype and device."""
        with torch.no_grad():
            for parameter in module.parameters():
                fan_in = parameter[0].numel() if parameter.dim() > 1 else 0
                scale = fan_in**-0.5 if fan_in else 0.1
                parameter.data = self.normal(*parameter.shape, scale=scale)
            for name, buffer in module.named_buffers():
                owner, _, leaf = name.rpartition(".")
                module.get_submodule(owner)._buffers[leaf] = self.tensor(buffer)
        return module


@dataclass(frozen=True)
class ClosedForm:
    """Derivatives known on paper, at the instance's x. Each takes the order first; None: not known.

    A function may return None for an order whose closed form is not known.
    """

    tensor: Callable[[int], Tensor | None] | None = None
    product: Callable[[int, Tensor], Tensor | None] | None = None
    directional: Callable[[int, Tensor], Tensor | None] | None = None


@dataclass
class Instance:
    """A problem at one size.

    Attributes:
        f: R^n -> R, takes x and returns a 0-dimensional tensor. Pure: same x, same value.
        x: the point, any shape.
        v: a direction shaped like x; drawn by the suite where None.
        closed_form: derivatives known on paper.
        extras: further arguments that operators ask for by name (``module``, ``loss``, ``inputs``,
            ``targets``, ...); a problem declares their names in ``provides``.
        sweeps: sweeps over the graph of f that a truth may take; what takes more is held against samples of it. None:
            however many it takes.
    """

    f: Callable[[Tensor], Tensor]
    x: Tensor
    v: Tensor | None = None
    closed_form: ClosedForm | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    sweeps: int | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """A problem's record.

    Attributes:
        name: unique, snake_case.
        formula: f in one line of mathematics.
        source: where it is from (author, year, number).
        family: what cost(f) is made of, in a word: "elementwise", "dense", "network", "application", or another.
        sizes: the sizes it has, of n, depth and batch -> what each means here.
        provides: names of the extras on its instances.
        operations: spec -> {"add": .., "mul": .., "transcendental": ..} arithmetic operations of one
            evaluation of f, counted by hand, or None where nobody has counted.
        build: (spec, draw) -> Instance.
    """

    name: str
    formula: str
    source: str
    family: str
    sizes: Mapping[str, str]
    build: Callable[[Spec, Draw], Instance]
    provides: tuple[str, ...] = ()
    operations: Callable[[Spec], Mapping[str, int]] | None = None

    def instance(
        self,
        spec: Spec,
        dtype: torch.dtype = torch.float64,
        device: str = "cpu",
        seed: int = 0,
        *,
        precise: bool = False,
    ) -> Instance:
        """Build the instance; its direction ``v`` is drawn (unit-scale normal) where the problem gave none.

        Raises:
            ProblemError: the factory does not return what it must; the message says what to write instead. What the
                factory itself raises goes through.
        """
        draw = Draw(dtype, device, seed, precise=precise)
        try:
            inspect.signature(self.build).bind(spec, draw)
        except TypeError as error:
            raise ProblemError(f"{self.name}: its factory takes other arguments than (spec, draw): {error}") from None
        built = self.build(spec, draw)
        self._check(built, draw)
        if built.v is None:
            built.v = Draw(dtype, device, seed + 1, precise=precise).normal(*built.x.shape)
        return built

    def _check(self, built: Any, draw: Draw) -> None:
        """Raise where an instance cannot be measured."""
        if not isinstance(built, Instance):
            got = "nothing" if built is None else f"a {type(built).__name__}"
            raise ProblemError(f"{self.name}: its factory returned {got}, expected Instance(f=…, x=…)")
        if not callable(built.f):
            raise ProblemError(f"{self.name}: f is a {type(built.f).__name__}, expected a function of x")
        for name, tensor in (("x", built.x), ("v", built.v)):
            if tensor is None and name == "v":
                continue
            if not isinstance(tensor, Tensor):
                raise ProblemError(
                    f"{self.name}: {name} is a {type(tensor).__name__}, expected one tensor; pack what it holds into "
                    "one (torch.cat of the flattened parts) and take it apart in f"
                )
            if tensor.dtype != draw.dtype or tensor.device.type != draw.device.type:
                raise ProblemError(
                    f"{self.name}: {name} is {tensor.dtype} on {tensor.device} where {draw.dtype} on {draw.device} was "
                    "asked for; make it by draw.tensor(…), draw.normal(…) or draw.module(…)"
                )
            if not tensor.numel():
                raise ProblemError(f"{self.name}: {name} is empty, of shape {tuple(tensor.shape)}")
        if built.v is not None and built.v.shape != built.x.shape:
            raise ProblemError(
                f"{self.name}: v has shape {tuple(built.v.shape)}, expected that of x, {tuple(built.x.shape)}"
            )
        lacking = [name for name in self.provides if name not in built.extras]
        if lacking:
            raise ProblemError(f"{self.name}: provides {lacking[0]!r} by its declaration, and its extras lack it")


class ProblemError(ValueError):
    """A problem's factory does not give what it must; the message names the problem and what to write instead."""


_NAME = re.compile(r"[^\W_][\w.-]{0,59}")  # part of a cell's id, which is typed into shells
_PROBLEMS: dict[str, Problem] = {}


def problem(
    name: str,
    *,
    formula: str,
    source: str,
    family: str,
    sizes: Mapping[str, str],
    provides: tuple[str, ...] = (),
    operations: Callable[[Spec], Mapping[str, int]] | None = None,
) -> Callable[[Callable[[Spec, Draw], Instance]], Callable[[Spec, Draw], Instance]]:
    """Declare a problem by its factory; see :class:`Problem` for the arguments.

    Raises:
        ValueError: the name is taken or holds other characters than letters, digits, "_", "-" and ".", the family is
            no short text, or a size is not n, depth or batch.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"problem: got the name {name!r}, expected letters, digits, '_', '-' and '.', at most 60")
    if name in _PROBLEMS:
        raise ValueError(f"problem: {name!r} is declared twice")
    text = str(family)
    if text != family or not text.isprintable() or not 0 < len(text.strip()) <= 40:
        raise ValueError(f"family: got {family!r}, expected a word or two, such as 'network'")
    if not set(sizes) <= {"n", "depth", "batch"}:
        raise ValueError(f"sizes: got {sorted(sizes)}, expected some of n, depth, batch")

    def declare(build: Callable[[Spec, Draw], Instance]) -> Callable[[Spec, Draw], Instance]:
        _PROBLEMS[name] = Problem(name, formula, source, family, dict(sizes), build, provides, operations)
        return build

    return declare


def registered() -> dict[str, Problem]:
    """All declared problems by name."""
    return dict(_PROBLEMS)

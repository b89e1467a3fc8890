"""What a problem is. One file beside this one declares one problem; nothing else is edited.

@problem("quadratic", formula="f(x) = xᵀAx/2 + bᵀx", source="...", family="dense",
         sizes={"n": "dimension of x"}, operations=lambda spec: {...})
def quadratic(spec: Spec, draw: Draw) -> Instance: ...
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hograd_core import Operator
from hograd_core.arguments import Arranged, Asked, arranged, batch, mapped, packing, taking


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
        f: takes x and ``args`` and returns a 0-dimensional tensor. Pure: same arguments, same value.
        x: the point: a tensor of any shape, or a structure of tensors (dicts, lists, tuples, nested).
        v: a direction like x; drawn by the suite where None.
        closed_form: derivatives known on paper, of a structure over its elements laid end to end.
        extras: further arguments that operators ask for by name (``module``, ``loss``, ``inputs``,
            ``targets``, ...); a problem declares their names in ``provides``.
        args: what f takes after x, not differentiated.
        in_dims: an entry for x and for each of ``args``, as of ``torch.vmap``: which axes count points. Results are
            then those at every point, and v counts points as x does.
        sweeps: sweeps over the graph of f that a truth may take; what takes more is held against samples of it. None:
            however many it takes.
        given: what the factory gave, where this is the same as methods take it (:meth:`Problem.instance`): f of one
            tensor x, of a batch the first point.
    """

    f: Callable[..., Tensor]
    x: Any
    v: Any = None
    closed_form: ClosedForm | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)
    args: tuple[Any, ...] = ()
    in_dims: Any = None
    sweeps: int | None = None
    given: Instance | None = None

    @property
    def own(self) -> Instance:
        """What the factory gave."""
        return self if self.given is None else self.given

    def points(self) -> list[Arranged]:
        """Every point at which derivatives are taken, as methods take it; the values that are in memory now."""
        if self.given is not None:
            return self.given.points()
        roles, asked = taking(("f", "x", "v")), Asked(self.args, self._dims(True))
        whole = {"f": self.f, "x": self.x, "v": self.v}
        if asked.in_dims is None:
            return [arranged(whole, roles, asked)]
        batched = batch(whole, roles, asked)
        return [arranged(given, roles, one) for given, one in map(batched.point, range(batched.size))]

    def call(self, operator: Operator) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """How a user calls an operator on this: its arguments and keywords.

        Raises:
            KeyError: the problem does not provide an argument.
        """
        structured = operator.taking.structured
        of = self.own if structured else self
        known: Mapping[str, Any] = {**self.extras, "f": of.f, "x": of.x, "v": of.v}
        keywords: dict[str, Any] = {"args": of.args} if of.args else {}
        if of.in_dims is not None:
            keywords["in_dims"] = of._dims("v" in operator.inputs)
        return tuple(known[name] for name in operator.inputs), keywords

    def each(self, operator: Operator) -> list[tuple[Any, ...]]:
        """The operator's arguments at every point, as methods take them: what truth is computed of.

        Raises:
            KeyError: the problem does not provide an argument.
        """
        points = self.points() if operator.taking.structured else [None]
        here = {**self.extras, "f": self.f, "x": self.x, "v": self.v}
        known = [here if point is None else {**here, **point.given} for point in points]
        return [tuple(values[name] for name in operator.inputs) for values in known]

    def flat(self, result: Any, operator: Operator, order: int) -> list[Any]:
        """What :meth:`call` gave, at every point as methods return it: over the elements of x laid end to end."""
        if self.given is None or not operator.taking.structured:
            return [result]
        points = self.points()
        batched = self.given.in_dims is not None
        each = [mapped(lambda t, i=i: t[i], result) for i in range(len(points))] if batched else [result]
        return [point.flat_result(part, operator.result, order) for point, part in zip(points, each, strict=True)]

    def _dims(self, with_v: bool) -> Any:
        """``in_dims`` with an entry for v, which counts points as x does."""
        if isinstance(self.in_dims, tuple | list) and self.in_dims and with_v:
            return (self.in_dims[0], *self.in_dims)
        return self.in_dims


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

        Returns:
            The instance as methods take it: f, x and v of one tensor; ``given`` is what the factory gave, where that is
            a structure, has further arguments or is a batch.

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
            more = Draw(dtype, device, seed + 1, precise=precise)
            built.v = mapped(lambda leaf: more.normal(*leaf.shape), built.x)
        try:
            asked = Asked(built.args, built.in_dims)
            if isinstance(built.x, Tensor) and not asked.args and asked.in_dims is None:
                return built
            if asked.in_dims is not None:  # as it is written, without v
                batch({"x": built.x}, taking(("f", "x")), asked)
            first = built.points()[0].given
        except (TypeError, ValueError) as error:
            raise ProblemError(f"{self.name}: {error}") from None
        return Instance(**first, closed_form=built.closed_form, extras=built.extras, given=built)

    def _check(self, built: Any, draw: Draw) -> None:
        """Raise where an instance cannot be measured."""
        if not isinstance(built, Instance):
            got = "nothing" if built is None else f"a {type(built).__name__}"
            raise ProblemError(f"{self.name}: its factory returned {got}, expected Instance(f=…, x=…)")
        if not callable(built.f):
            raise ProblemError(f"{self.name}: f is a {type(built.f).__name__}, expected a function of x")
        for name, value in (("x", built.x), ("v", built.v)):
            if value is not None or name == "x":
                self._check_tensors(name, value, draw)
        if isinstance(built.v, Tensor) and isinstance(built.x, Tensor) and built.v.shape != built.x.shape:
            raise ProblemError(
                f"{self.name}: v has shape {tuple(built.v.shape)}, expected that of x, {tuple(built.x.shape)}"
            )
        lacking = [name for name in self.provides if name not in built.extras]
        if lacking:
            raise ProblemError(f"{self.name}: provides {lacking[0]!r} by its declaration, and its extras lack it")

    def _check_tensors(self, name: str, value: Any, draw: Draw) -> None:
        """Raise where a point or a direction is not of tensors as they were asked for."""
        leaves = [(name, value)]
        if not isinstance(value, Tensor):
            try:
                packed = packing(value, name)
            except (TypeError, ValueError) as error:
                raise ProblemError(f"{self.name}: {error}") from None
            leaves = list(zip(packed.names, packed.like, strict=True))
        for label, tensor in leaves:
            if tensor.dtype != draw.dtype or tensor.device.type != draw.device.type:
                raise ProblemError(
                    f"{self.name}: {label} is {tensor.dtype} on {tensor.device} where {draw.dtype} on {draw.device} "
                    "was asked for; make it by draw.tensor(…), draw.normal(…) or draw.module(…)"
                )
        if not sum(tensor.numel() for _, tensor in leaves):
            raise ProblemError(f"{self.name}: {name} is empty, of shape {tuple(value.shape)}")


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
        ValueError: an argument is of another kind, the name is taken or holds other characters than letters, digits,
            "_", "-" and ".", the family is no short text, or a size is not n, depth or batch.
    """
    for what, given in (("name", name), ("formula", formula), ("source", source), ("family", family)):
        if not isinstance(given, str):
            raise ValueError(f"problem: got the {what} {given!r}, expected text")
    given_extras: object = provides  # whatever it is typed
    given_sizes: object = sizes
    if not isinstance(given_extras, tuple | list) or not all(isinstance(extra, str) for extra in given_extras):
        raise ValueError(f"problem: got provides={provides!r}, expected a tuple of names, such as ('module', 'loss')")
    if operations is not None and not callable(operations):
        raise ValueError(f"problem: got operations={operations!r}, expected a function of spec")
    if not _NAME.fullmatch(name):
        raise ValueError(f"problem: got the name {name!r}, expected letters, digits, '_', '-' and '.', at most 60")
    if name in _PROBLEMS:
        raise ValueError(f"problem: {name!r} is declared twice; choose another name")
    if not family.isprintable() or not 0 < len(family.strip()) <= 40:
        raise ValueError(f"family: got {family!r}, expected a word or two, such as 'network'")
    if not isinstance(given_sizes, Mapping) or not set(given_sizes) <= {"n", "depth", "batch"}:
        raise ValueError(
            f"sizes: got {sizes!r}, expected a dict from some of n, depth, batch to what each means here, as "
            "{'n': 'entries of x'}"
        )

    def declare(build: Callable[[Spec, Draw], Instance]) -> Callable[[Spec, Draw], Instance]:
        if not callable(build):
            raise ValueError(f"problem: {name!r} decorates {build!r}, expected a function of (spec, draw)")
        meanings = {size: str(meaning) for size, meaning in sizes.items()}
        _PROBLEMS[name] = Problem(name, formula, source, family, meanings, build, tuple(provides), operations)
        return build

    return declare


def withdraw(names: Iterable[str]) -> None:
    """Forget problems, those of a file that could not be run to its end."""
    for name in names:
        del _PROBLEMS[name]


def registered() -> dict[str, Problem]:
    """All declared problems by name."""
    return dict(_PROBLEMS)

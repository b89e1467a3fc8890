"""What a caller asks for beside an operator's own arguments, and one point of it as methods take it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hograd_core._entrance import kept
from hograd_core.arguments import _tree
from hograd_core.arguments._packing import Packing, packing
from hograd_core.arguments._parameters import Part, trainable_of
from hograd_core.arguments._sum import changed


@dataclass(frozen=True)
class Asked:
    """Keyword arguments of a call that are no method's: see :class:`hograd_core._how.How`."""

    args: tuple[Any, ...] = ()
    in_dims: Any = None
    flat: bool | None = None
    create_graph: bool = False
    memory: int | str | None = None
    parameters: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.args, tuple):
            raise TypeError(
                f"args: got {type(self.args).__name__}, expected a tuple of what f takes after x; one: args=(data,)"
            )
        for name in ("flat", "create_graph"):
            if not isinstance(getattr(self, name), bool | None):
                raise TypeError(f"{name}: got {getattr(self, name)!r}, expected True or False")


ASKED = dict.fromkeys(Asked.__dataclass_fields__)
"""Names of the keyword arguments that every operator takes for its arguments' sake."""


@dataclass(frozen=True)
class Taking:
    """Which of an operator's arguments are what, by name.

    Attributes:
        function: what is differentiated, ``f``; None: an operator of models.
        point: where, ``x``.
        module: the model, whose parameters are the point.
        directions: those like the point, ``v``.
    """

    function: str | None
    point: str | None
    module: str | None
    directions: tuple[str, ...]

    @property
    def structured(self) -> bool:
        """Whether the point may be a structure."""
        return self.function == "f"


def taking(names: tuple[str, ...]) -> Taking:
    """What the required arguments of an operator are, by the names that they have in all operators."""
    function, point = (names[0], names[1]) if names[:2] in (("f", "x"), ("u", "points")) else (None, None)
    module = names[0] if names[:1] == ("module",) else None
    return Taking(function, point, module, tuple(name for name in names if name == "v"))


@dataclass(frozen=True)
class Arranged:
    """One point of a call, as the guard takes it.

    Attributes:
        given: the operator's arguments, x and what is like it as one tensor each, f as a function of it alone.
        packing: how x lies in that tensor; None: x is a tensor itself.
        flat: whether results are laid flat.
    """

    given: Mapping[str, Any]
    packing: Packing | None
    flat: bool

    def shaped(self, result: Any, kind: str, order: int | None, leading: int = 0) -> Any:
        """A result in the shape that x was given in.

        Args:
            result: of a method.
            kind: what it is shaped like, in the operator's words.
            order: the derivative's order.
            leading: how many axes of points come first.

        Raises:
            ValueError: it cannot be laid flat, for leaves differ in dtype or device.
        """
        if isinstance(result, tuple) and "shaped like x" in kind:
            return _within(result, kind, lambda part: self.shaped(part, "x", order, leading))
        repeats = _repeats(kind, order)
        if not repeats:
            return result
        if self.packing is None:
            n = self.given["x"].numel() if self.flat and "x" in self.given else None
            return result if n is None else result.reshape(*result.shape[:leading], *[n] * repeats)
        if not self.flat:
            return self.packing.shaped(result, repeats, leading)
        self.packing.refuse_mixed("flat")
        return result

    def flat_result(self, result: Any, kind: str, order: int | None) -> Any:
        """What :meth:`shaped` gave at one point, over the elements of x laid end to end again."""
        if self.packing is None or self.flat:
            return result
        packed = self.packing
        if isinstance(result, tuple) and "shaped like x" in kind:
            return _within(result, kind, lambda part: packed.joined(part, 1))
        return packed.joined(result, _repeats(kind, order))


def _repeats(kind: str, order: int | None) -> int:
    """How often a result of that kind has the shape of x."""
    return 1 if kind == "x" else (order or 0) if kind == "x * order" else 0


def _within(result: Any, kind: str, change: Callable[[Any], Any]) -> Any:
    """A named tuple whose first word of ``kind`` names the part that is shaped like x, with that part changed."""
    name = kind.split()[0]
    return result._replace(**{name: change(getattr(result, name))})


def arranged(given: Mapping[str, Any], roles: Taking, asked: Asked) -> Arranged:
    """The arguments of one point as methods take them: structures flat, further arguments bound.

    Raises:
        TypeError, ValueError: a leaf of x is not of the kind that can be differentiated, or v does not pair with x.
    """
    found = dict(given)
    function, point = roles.function, roles.point
    if roles.module is not None and isinstance(given[roles.module], nn.Module):
        return _of_module(found, roles, roles.module, asked)
    if function is None or point is None:
        return Arranged(found, None, False)
    packed: Packing | None = None
    if roles.structured and dataclasses.is_dataclass(given[point]) and _tree.is_leaf(given[point]):
        kind = type(given[point]).__name__
        raise TypeError(
            f"{point}: got {kind}, expected a structure; make it one: torch.export.register_dataclass({kind})"
        )
    if roles.structured and not _tree.is_leaf(given[point]):
        packed = packing(given[point], point)
        for name in (point, *roles.directions):
            found[name] = packed.pack(given[name], name)
        if callable(given[function]):
            found[function] = changed(given[function], packed.function)
    if asked.args and callable(found[function]):
        found[function] = changed(found[function], functools.partial(bound, args=asked.args))
    return Arranged(found, packed, bool(asked.flat))


def _of_module(found: dict[str, Any], roles: Taking, name: str, asked: Asked) -> Arranged:
    """The parameters of a module are the point: vectors over them may be mappings by name, and so are results then."""
    chosen = trainable_of(found[name], asked.parameters)
    packed = packing(chosen, name)
    by_name = False
    for direction in roles.directions:
        if isinstance(found[direction], Mapping):
            by_name = True
            found[direction] = packed.pack({**found[direction]}, direction)
    found[name] = Part(found[name], chosen)
    return Arranged(found, packed, not by_name if asked.flat is None else asked.flat)


def point_of(f: Any, x: Any, args: tuple[Any, ...] = ()) -> tuple[Callable[..., Any], Any, Packing | None]:
    """f and x for functions that are no operators: f of one tensor alone, that tensor, and how x lies in it."""
    if isinstance(x, Tensor) and not args:
        return f, x, None
    found = arranged({"f": f, "x": x}, taking(("f", "x")), Asked(args))
    return found.given["f"], found.given["x"], found.packing


def bound(f: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[Tensor], Any]:
    """f of its first argument alone; tensors among the others are constants, but within a larger derivative."""
    held = _tree.ordinary(args if kept() else _tree.detached(args))

    def of_point(x: Tensor) -> Any:
        return f(x, *held)

    return of_point

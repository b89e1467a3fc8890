"""What a caller asks for beside an operator's own arguments, and one point of it as methods take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hograd_core._entrance import kept
from hograd_core.arguments import _tree
from hograd_core.arguments._packing import Packing, packing


@dataclass(frozen=True)
class Asked:
    """Keyword arguments of a call that are no method's: see :class:`hograd_core._how.How`."""

    args: tuple[Any, ...] = ()
    in_dims: Any = None
    flat: bool = False
    create_graph: bool = False
    memory: int | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.args, tuple):
            raise TypeError(
                f"args: got {type(self.args).__name__}, expected a tuple of what f takes after x; one: args=(data,)"
            )
        for name in ("flat", "create_graph"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: got {getattr(self, name)!r}, expected True or False")


ASKED = dict.fromkeys(Asked.__dataclass_fields__)
"""Names of the keyword arguments that every operator takes for its arguments' sake."""


@dataclass(frozen=True)
class Taking:
    """Which of an operator's arguments are what, by name.

    Attributes:
        function: what is differentiated, ``f``; None: an operator of models, which arranges its arguments itself.
        point: where, ``x``.
        directions: those like the point, ``v``.
    """

    function: str | None
    point: str | None
    directions: tuple[str, ...]

    @property
    def structured(self) -> bool:
        """Whether the point may be a structure."""
        return self.function == "f"


def taking(names: tuple[str, ...]) -> Taking:
    """What the required arguments of an operator are, by the names that they have in all operators."""
    function, point = (names[0], names[1]) if names[:2] in (("f", "x"), ("u", "points")) else (None, None)
    return Taking(function, point, tuple(name for name in names if name == "v"))


@dataclass(frozen=True)
class Arranged:
    """One point of a call, as the guard takes it.

    Attributes:
        given: the operator's arguments, x and what is like it as one tensor each, f as a function of it alone.
        packing: how x lies in that tensor; None: x is a tensor itself.
    """

    given: Mapping[str, Any]
    packing: Packing | None

    def shaped(self, result: Any, kind: str, order: int | None, flat: bool, leading: int = 0) -> Any:
        """A result in the shape that x was given in.

        Args:
            result: of a method.
            kind: what it is shaped like, in the operator's words.
            order: the derivative's order.
            flat: whether it is laid flat instead.
            leading: how many axes of points come first.

        Raises:
            ValueError: it cannot be laid flat, for leaves differ in dtype or device.
        """
        if isinstance(result, tuple) and "shaped like x" in kind:
            name = kind.split()[0]
            part = self.shaped(getattr(result, name), "x", order, flat, leading)
            return result._replace(**{name: part})  # type: ignore[attr-defined]
        repeats = 1 if kind == "x" else order if kind == "x * order" else 0
        if not repeats:
            return result
        if self.packing is None:
            n = self.given["x"].numel()
            return result.reshape(*result.shape[:leading], *[n] * repeats) if flat else result
        if not flat:
            return self.packing.shaped(result, repeats, leading)
        if not self.packing.uniform:
            kinds = sorted({f"{leaf.dtype} on {leaf.device}" for leaf in self.packing.like})
            raise ValueError(
                f"flat: got leaves of {len(kinds)} kinds ({', '.join(kinds)}), which no one tensor holds; expected one "
                "dtype on one device; leave out flat, or convert the leaves"
            )
        return result


def arranged(given: Mapping[str, Any], roles: Taking, asked: Asked) -> Arranged:
    """The arguments of one point as methods take them: structures flat, further arguments bound.

    Raises:
        TypeError, ValueError: a leaf of x is not of the kind that can be differentiated, or v does not pair with x.
    """
    found = dict(given)
    function, point = roles.function, roles.point
    if function is None or point is None:
        return Arranged(found, None)
    packed: Packing | None = None
    if roles.structured and not _tree.is_leaf(given[point]):
        packed = packing(given[point], point)
        for name in (point, *roles.directions):
            found[name] = packed.pack(given[name], name)
        if callable(given[function]):
            found[function] = packed.function(given[function])
    if asked.args and callable(found[function]):
        found[function] = bound(found[function], asked.args)
    return Arranged(found, packed)


def bound(f: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[Tensor], Any]:
    """f of its first argument alone; tensors among the others are constants, but within a larger derivative."""
    held = args if kept() else _tree.detached(args)

    def of_point(x: Tensor) -> Any:
        return f(x, *held)

    return of_point

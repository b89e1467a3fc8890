"""What a formula is, and what formulas share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Work(NamedTuple):
    """Operations of one dispatch, and how many of its additions were to a zero accumulator."""

    flops: int
    accumulators: int = 0


Arguments = Sequence[Any]
Keywords = Mapping[str, Any]
Formula = Callable[[Arguments, Keywords, Any], Work | None]

FREE = Work(0)


def free(args: Arguments, kwargs: Keywords, out: Any) -> Work:
    """No arithmetic."""
    return FREE


def first(out: Any) -> Tensor:
    """The first tensor of a result."""
    tensor: Tensor = out[0] if isinstance(out, (tuple, list)) else out
    return tensor


def argument(args: Arguments, kwargs: Keywords, position: int, name: str, default: Any) -> Any:
    """An argument that may come by position or by name."""
    return args[position] if len(args) > position else kwargs.get(name, default)


def per_element(count: int) -> Formula:
    """So many operations for every element of the result."""
    return lambda args, kwargs, out: Work(count * first(out).numel())


class Table(dict[str, Formula]):
    """Formulas by the operator's name without its namespace."""

    def add(self, names: str, formula: Formula) -> None:
        """Register one formula under several names, separated by blanks.

        Raises:
            ValueError: a name has a formula already.
        """
        for name in names.split():
            if name in self:
                raise ValueError(f"formula: {name!r} has two")
            self[name] = formula

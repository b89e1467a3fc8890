"""Which target: what goes to the process that loads it. Free of torch, for whoever asks need not load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Request:
    """Which target, at which size; JSON-ready, for it goes to child processes.

    Attributes:
        target: ``path/to/file.py:name``, ``package.module:name``, or a file that ``torch.save`` wrote objects to.
        shape: of x, where the name is f itself; None: it is a factory.
        dtype: of x, for ``shape`` and for factories that take ``dtype``; None: float32, or what the factory makes.
        device: likewise.
        scale: the factory's parameter that is its size; None: ``n``, where it has one.
        n: its value; None: the parameter's own default. For f with a shape: the first number of the shape.
    """

    target: str
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    device: str = "cpu"
    scale: str | None = None
    n: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain types; :meth:`from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Request:
        """Inverse of :meth:`to_json`."""
        shape = given["shape"]
        return cls(**{**given, "shape": None if shape is None else tuple(shape)})

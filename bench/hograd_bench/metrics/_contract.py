"""What a metric is. A file beside this one holds one family: its records and the function that reads them.

    METRICS = (Metric("peak_bytes", unit="B", deterministic=True, instrument="...", description="..."),)

    def measure(subject: Subject) -> Readings: ...

A figure that cannot be had is :class:`Missing` with a reason, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

KINDS = ("count", "bytes", "time", "ratio", "flag", "text")
_KINDS_OF_UNITS = {"B": "bytes", "s": "time", "bool": "flag", "FLOP": "count"}


@dataclass(frozen=True)
class Metric:
    """A metric's record: the sole authority on it. It needs no torch, and travels with every run.

    Attributes:
        name: column name.
        unit: "s", "B", "1", "FLOP", "W", ...
        deterministic: True where two fresh processes must agree to the last digit.
        instrument: what reads it.
        description: what it means, one sentence.
        depends_on: what else than the code changes it ("torch", "threads", "isa", "device").
        kind: "count" (whole numbers), "bytes", "time", "ratio" (any other number), "flag" or "text"; "": what the unit
            says, a ratio where it says nothing.
        direction: "lower" or "higher" where that is better, "" where neither is.
        nonnegative: whether a row with a negative value is damaged; None: for counts, bytes and times.
        label: what a narrow column calls it; "": it has no column in the report's table of cells.
        overhead: whether a fitted law allows a constant beside the growth; a quotient has none.

    Raises:
        ValueError: an unknown kind or direction, or a name that is no identifier.
    """

    name: str
    unit: str
    deterministic: bool
    instrument: str
    description: str
    depends_on: tuple[str, ...] = ()
    kind: str = ""
    direction: str = "lower"
    nonnegative: bool | None = None
    label: str = ""
    overhead: bool = True

    def __post_init__(self) -> None:
        kind = self.kind or _KINDS_OF_UNITS.get(self.unit, "ratio")
        for given, allowed, what in ((kind, KINDS, "kind"), (self.direction, ("lower", "higher", ""), "direction")):
            if given not in allowed:
                known = ", ".join(map(repr, allowed))
                raise ValueError(f"metric {self.name!r}: {what}: got {given!r}, expected one of {known}")
        if not self.name.isidentifier():
            raise ValueError(f"metric: got the name {self.name!r}, expected an identifier: it is a column of the rows")
        object.__setattr__(self, "kind", kind)
        if self.nonnegative is None:
            object.__setattr__(self, "nonnegative", kind in ("count", "bytes", "time"))

    @property
    def exact(self) -> bool:
        """Whether it is a whole number that the program determines, so that a law must hit it exactly."""
        return self.deterministic and self.kind in ("count", "bytes")

    def as_dict(self) -> dict[str, Any]:
        """The record in plain JSON types; :meth:`from_dict` reads it."""
        return {**asdict(self), "depends_on": list(self.depends_on)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Metric:
        """The record that :meth:`as_dict` wrote; fields of a newer hograd are left out.

        Raises:
            TypeError, ValueError: it is no record.
        """
        kinds = {f.name: f.type for f in fields(cls)}
        known = {k: v for k, v in given.items() if k in kinds}
        known["depends_on"] = tuple(map(str, known.get("depends_on", ())))
        for name, value in known.items():
            expected = bool if kinds[name] in ("bool", "bool | None") else tuple if name == "depends_on" else str
            if not isinstance(value, expected):
                raise TypeError(f"{name}: got {type(value).__name__}, expected {expected.__name__}")
        return cls(**known)


@dataclass(frozen=True)
class Missing:
    """In place of a value: why it could not be had."""

    reason: str


Value = int | float | bool | str | Missing


@dataclass
class Readings:
    """What a family read of a subject.

    Attributes:
        values: by metric name.
        details: structured details (tables, raw samples) by name, JSON-ready.
        wrong: why the cell's result must not be believed, where the family found that: the row's status is ``wrong``.
    """

    values: dict[str, Value] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    wrong: str = ""

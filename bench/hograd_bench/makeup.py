"""What a row's exact figures are made of: bytes alive at the peak by phase and operation, operations dispatched.

Pure, and tolerant of damaged rows: what cannot be read is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Stacks = Mapping[tuple[str, ...], int]
"""A path, from the outermost part to the operation itself, and how much of the whole it has."""
BYTES, CALLS = "bytes at the peak", "operations dispatched"


@dataclass(frozen=True)
class Change:
    """What one of a cell's exact figures was made of, and is made of now.

    Attributes:
        cell: id.
        what: :data:`BYTES` or :data:`CALLS`.
        before, after: by path; their sums are the figures.
    """

    cell: str
    what: str
    before: Stacks
    after: Stacks


def blocks(details: Any) -> list[dict[str, Any]]:
    """The rows of a cell's peak attribution: ``phase``, ``op``, ``within``, ``bytes``; none where it has none."""
    table = _table(details, "peak_attribution")
    if not isinstance(table, list):
        return []
    return [b for b in table if isinstance(b, dict) and _counts(b.get("bytes"))]


def at_peak(details: Any, *, nodes: bool = True) -> Stacks:
    """Bytes alive at the peak by phase, operation and, between them, the node or caller (``nodes``), if another."""
    found: Counter[tuple[str, ...]] = Counter()
    for block in blocks(details):
        phase, op = str(block.get("phase", "unknown")), _plain(block.get("op", "unknown"))
        within = _plain(block.get("within", op)) if nodes else op
        path = (phase, op) if within == op else (phase, within, op)
        # The sum of what was too small for rows of its own is called by how many there were.
        found[path if phase != "other" else (phase,)] += int(block["bytes"])
    return found


def dispatched(details: Any) -> Stacks:
    """Calls of ATen operations by operation and overload."""
    table = _table(details, "aten_by_op")
    if not isinstance(table, Mapping):
        return {}
    found: Counter[tuple[str, ...]] = Counter()
    for op, calls in table.items():
        if _counts(calls):
            found[tuple(_plain(op).split(".", 1))] += int(calls)
    return found


def steps(before: Stacks, after: Stacks) -> dict[tuple[str, ...], int]:
    """What moved, and by how much, the largest step first."""
    moved = {path: after.get(path, 0) - before.get(path, 0) for path in {*before, *after}}
    return {path: moved[path] for path in sorted(moved, key=lambda p: (-abs(moved[p]), p)) if moved[path]}


def changes(cell: str, before: Any, after: Any) -> list[Change]:
    """What moved between the details of two rows of a cell, of what both tell; bytes first."""
    # A baseline tells no nodes: then what stands beside it is told without them as well.
    nodes = all("within" in block for details in (before, after) for block in blocks(details))
    pairs = (
        (BYTES, at_peak(before, nodes=nodes), at_peak(after, nodes=nodes)),
        (CALLS, dispatched(before), dispatched(after)),
    )
    return [Change(cell, what, old, new) for what, old, new in pairs if old and new and old != new]


def _table(details: Any, name: str) -> Any:
    try:  # details may still lie in a file
        return details.get(name) if isinstance(details, Mapping) else None
    except (OSError, ValueError):
        return None


def _counts(value: Any) -> bool:
    return type(value) is int and value > 0


def _plain(op: object) -> str:
    return str(op).replace("aten::", "").removeprefix("aten.")

"""Do two sides compute the same thing? A faster wrong kernel must not pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Rounding of a refactored kernel stays within some thousand units of the last place of the largest entry; a
# wrong term does not. Low-precision dtypes are capped, or the bound would say nothing.
ULPS = 4096.0
CAP = 0.05
INEXACT = 0.5


def tolerance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Relative difference allowed between two sides, from what their workers said of the prepared cell.

    Args:
        a: reply of side A to "prepare": ``eps``, ``order``, ``exact`` and ``tolerance`` of the method.
        b: the same of side B.

    Returns:
        The larger bound of the two sides. Methods that carry sampling or truncation error by design and state
        no tolerance get :data:`INEXACT`.
    """
    return max(_one(a), _one(b))


def _one(side: dict[str, Any]) -> float:
    rounding: float = min(CAP, ULPS * side["eps"] * max(1, side["order"]))
    if side["tolerance"] is not None:
        return max(float(side["tolerance"]), rounding)
    return float(rounding) if side["exact"] else INEXACT


def disagreement(
    path_a: Path,
    path_b: Path,
    shapes_a: Sequence[Sequence[int]],
    shapes_b: Sequence[Sequence[int]],
    allowed: float,
    names: tuple[str, str] = ("on A", "on B"),
) -> str | None:
    """Why two results differ, or None where they agree.

    Args:
        path_a: file of A's float64 values, tensor after tensor.
        path_b: the same of B.
        shapes_a: shapes of A's tensors, in order.
        shapes_b: the same of B.
        allowed: bound on max|a - b| / max(|a|, |b|) of each tensor.
        names: of the two, for the sentence.

    Returns:
        A sentence, or None. NaN and infinities must stand in the same places.
    """
    if [list(s) for s in shapes_a] != [list(s) for s in shapes_b]:
        return f"shapes differ: {_show(shapes_a)} {names[0]}, {_show(shapes_b)} {names[1]}"
    a, b = np.fromfile(path_a, dtype="<f8"), np.fromfile(path_b, dtype="<f8")
    if a.size != b.size:  # complex on one side only
        return f"sizes differ: {a.size} numbers {names[0]}, {b.size} {names[1]}"
    start = 0
    sizes = [int(np.prod(s, dtype=np.int64)) for s in shapes_a]
    for number, size in enumerate(sizes):
        stop = start + size
        why = _tensor(a[start:stop], b[start:stop], allowed, names)
        if why is not None:
            return why if len(sizes) == 1 else f"tensor {number} of the result: {why}"
        start = stop
    return None


def between(first: tuple[Path, dict[str, Any]], second: tuple[Path, dict[str, Any]]) -> str | None:
    """Why the results of one cell on two sides differ, or None: of the first call, then at halved arguments.

    Args:
        first: file of A's result and what the worker said of the cell when it counted it.
        second: the same of B.
    """
    (path_a, said_a), (path_b, said_b) = first, second
    allowed = tolerance(said_a, said_b)
    why = disagreement(path_a, path_b, said_a["shapes"], said_b["shapes"], allowed)
    if why is not None or "moved" not in said_a or said_b.get("proved"):  # A may be the one that was wrong there
        return why
    if "moved" not in said_b:
        return "with halved arguments it still runs on A, and fails on B"
    moved = Path(f"{path_a}.moved"), Path(f"{path_b}.moved")
    why = disagreement(*moved, said_a["moved"], said_b["moved"], allowed)
    return f"after its arguments were halved in place, {why}" if why else None


def unsteady(path: Path, said: dict[str, Any]) -> str | None:
    """Why a side's own result of a cell changed from its first call to a later one; None where it did not."""
    again = Path(f"{path}.again")
    return disagreement(path, again, said["shapes"], said["again"], tolerance(said, said), ("at first", "later"))


def _tensor(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], allowed: float, names: tuple[str, str]) -> str | None:
    finite_a, finite_b = np.isfinite(a), np.isfinite(b)
    if not np.array_equal(a[~finite_a], b[~finite_a], equal_nan=True) or not np.array_equal(finite_a, finite_b):
        return f"{int((~finite_a).sum())} entries are not finite {names[0]}, {int((~finite_b).sum())} {names[1]}"
    if not finite_a.any():
        return None
    a, b = a[finite_a], b[finite_a]
    scale = max(float(np.abs(a).max()), float(np.abs(b).max()))
    worst = float(np.abs(a - b).max())
    if worst <= allowed * scale:
        return None
    return f"results differ by {worst / scale:.3g} of their largest entry, allowed {allowed:.3g}"


def _show(shapes: Sequence[Sequence[int]]) -> str:
    return ", ".join("x".join(map(str, s)) or "scalar" for s in shapes) or "nothing"

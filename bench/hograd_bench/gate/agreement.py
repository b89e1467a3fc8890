"""Do two sides compute the same thing? A faster wrong kernel must not pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hograd_bench.schema import Row


def disagreement(
    path_a: Path,
    path_b: Path,
    shapes_a: Sequence[Sequence[int]],
    shapes_b: Sequence[Sequence[int]],
    allowed: float,
) -> str | None:
    """Why two results differ, or None where they agree.

    Args:
        path_a: file of A's float64 values, tensor after tensor.
        path_b: the same of B.
        shapes_a: shapes of A's tensors, in order.
        shapes_b: the same of B.
        allowed: bound on max|a - b| / max(|a|, |b|) of each tensor.

    Returns:
        A sentence, or None. NaN and infinities must stand in the same places.
    """
    if [list(s) for s in shapes_a] != [list(s) for s in shapes_b]:
        return f"shapes differ: {_show(shapes_a)} on A, {_show(shapes_b)} on B"
    a, b = np.fromfile(path_a, dtype="<f8"), np.fromfile(path_b, dtype="<f8")
    if a.size != b.size:  # complex on one side only
        return f"sizes differ: {a.size} numbers on A, {b.size} on B"
    start = 0
    sizes = [int(np.prod(s, dtype=np.int64)) for s in shapes_a]
    for number, size in enumerate(sizes):
        stop = start + size
        why = _tensor(a[start:stop], b[start:stop], allowed)
        if why is not None:
            return why if len(sizes) == 1 else f"tensor {number} of the result: {why}"
        start = stop
    return None


def between(a: Row, b: Row, folders: tuple[Path, Path]) -> str | None:
    """Why the results of one cell on two sides differ, or None: of a call, then at halved arguments.

    Both are right by their own side's truth as far as one is known; two sides whose truths agree on a mistake differ.

    Args:
        a: row of side A, with what metrics/steadiness.py says of its results.
        b: the same of B.
        folders: where the sides left them.
    """
    said_a, said_b = (row["details"].get("results") or {} for row in (a, b))
    if "file" not in said_a or "file" not in said_b:
        return None
    allowed = max(said_a["allowed"], said_b["allowed"])
    for prefix, when in (("", ""), ("halved_", "after its arguments were halved in place, ")):
        if f"{prefix}file" not in said_a or (prefix and b["metrics"].get("follows_arguments")):
            return None  # A fails there; or B is right there, and A may be the one that is not
        if prefix and said_b.get("fails_halved"):
            return "with halved arguments it still runs on A, and fails on B"
        if f"{prefix}file" not in said_b:  # a peer, whose arguments are its own
            return None
        path_a, path_b = folders[0] / said_a[f"{prefix}file"], folders[1] / said_b[f"{prefix}file"]
        why = disagreement(path_a, path_b, said_a[f"{prefix}shapes"], said_b[f"{prefix}shapes"], allowed)
        if why is not None:
            return when + why
    return None


def _tensor(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], allowed: float) -> str | None:
    finite_a, finite_b = np.isfinite(a), np.isfinite(b)
    if not np.array_equal(a[~finite_a], b[~finite_a], equal_nan=True) or not np.array_equal(finite_a, finite_b):
        return f"{int((~finite_a).sum())} entries are not finite on A, {int((~finite_b).sum())} on B"
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

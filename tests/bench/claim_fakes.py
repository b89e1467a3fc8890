"""Frames that make a part of a claim true or false, cell by cell, from the cells that it needs."""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd
from hograd_bench import claim_cells, claims
from hograd_bench.claims._series import EPS
from hograd_bench.laws import is_exact

F_OPERATIONS = 1000


def operations(problem, n, depth, batch):
    return F_OPERATIONS


def frame_of(part, true, only=None):
    """Rows of every cell that the part needs (or of those that ``only`` accepts), in which it is true or false."""
    claim = claims.Claim("X", "", "", "", (part,))
    rows = []
    for cell in claim_cells.needed_cells(claim):
        if only is not None and not only(cell):
            continue
        row = {**cell.as_dict(), "cell": cell.id, "status": "ok", "run": "r", "machine": "m", "result_bytes": 64.0}
        row[part.metric] = VALUES[part.rule](part, cell, true)
        # No measurement repeats to the last digit; counted metrics do.
        if not is_exact(part.metric) and part.rule != "bounded":
            seed = zlib.crc32(cell.id.encode())
            row[part.metric] *= float(np.exp(0.01 * np.random.default_rng(seed).standard_normal()))
        rows.append(row)
    return pd.DataFrame(rows)


def is_baseline(part, cell):
    name = part.parameters.get("baseline") or part.parameters.get("over") or ""
    return f"{cell.operator}/{cell.method}" == name


def growth(part, cell, true):
    variable, limit = part.parameters["variable"], part.parameters["limit"]
    power = cell.order if limit == "order" else limit
    x = getattr(cell, variable)
    if is_baseline(part, cell):
        return float(8 * x)
    power += (1 if "baseline" in part.parameters else 0) + (0 if true else 1)
    scale = 4.0 if is_exact(part.metric) else 1e-6
    return scale * x**power


def family(part, cell, true):
    fast = true == ("exponential" in part.parameters["expect"])
    return float(100 * 3**cell.order) if fast else float(100 * cell.order)


def bounded(part, cell, true):
    low, high, over = (part.parameters.get(k) for k in ("low", "high", "over"))
    inside = high / 2 if low is None else low * 2 if high is None else (low * high) ** 0.5
    value = inside if true else (64.0 if high == 0 else high * 3 if high is not None else low / 3)
    if is_baseline(part, cell):
        return 500.0
    unit = {None: 1.0, "eps": EPS[cell.dtype], "f": F_OPERATIONS, "result_bytes": 64.0}.get(over, 500.0)
    return value * unit


def step(part, cell, true):
    return float(100 * (2 * part.parameters["factor"] if true else 1.1) ** cell.order)


def beats(part, cell, true):
    name = f"{cell.operator}/{cell.method}"
    ours = any(
        name in _names(pair[0]) or _names(pair[0])[0].split("/") == [cell.operator, "*"] for pair in pairs_of(part)
    )
    slow = 100.0 * cell.n * (cell.n if "products_share" in part.parameters else 1)
    fast = 1.0 * cell.n if "products_share" not in part.parameters else 1.0
    return fast if ours == true else slow


def pairs_of(part):
    return part.parameters["pairs"]


def _names(side):
    from hograd_bench.claims._series import canonical

    listed = side if isinstance(side, list) else [side]
    return [f"{canonical(s.partition('/')[0])}/{s.partition('/')[2]}" for s in listed]


VALUES = {
    "growth_at_most": growth,
    "growth_equals": growth,
    "family_in_order": family,
    "bounded": bounded,
    "step_at_least": step,
    "beats": beats,
}

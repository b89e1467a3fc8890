"""What was measured, left for ``method="auto"``: times as JSON under HOGRAD_CACHE, which hograd_core reads.

Free of torch. The format is that of ``hograd_core/auto/_cache.py``; a test holds the two together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hograd_bench import store

CACHE = "HOGRAD_CACHE"
FORMAT = 1


_PLACE = ["problem", "n", "depth", "batch", "dtype", "device", "threads"]


def steady(rows: pd.DataFrame) -> pd.Series[float]:
    """Seconds of a call, with the load of its moment taken out where its gradients were timed beside it.

    Rows of one run are minutes apart, and a busy machine may be twice as slow in some of them: a call takes its
    gradient equivalents times what a gradient of the same function took at its fastest.
    """
    seconds: pd.Series[float] = rows["seconds_min"]
    if "gradient_equivalents" not in rows:
        return seconds
    gradient = seconds / rows["gradient_equivalents"]
    place = [column for column in ["machine", "run", *_PLACE] if column in rows]
    least = gradient.groupby([rows[column] for column in place], observed=True, dropna=False).transform("min")
    return (rows["gradient_equivalents"] * least).fillna(seconds)


def entries(rows: pd.DataFrame, functions: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Entries of the cache, of rows that came out right and were timed.

    Args:
        rows: a frame as ``store`` makes it.
        functions: problem -> identity of its function; of others the problem and its sizes stand for it.
    """
    if "seconds_min" not in rows:
        return []
    rows = rows.assign(seconds_min=steady(rows))
    taken = rows[(rows["status"] == "ok") & (rows["seconds_min"] > 0) & (rows["numel"] > 0)]
    if "allowed" in taken:
        taken = taken[taken["allowed"] != 0]
    found = []
    for row in taken[taken["preparation"] == "eager"].to_dict("records"):
        peak = row.get("peak_bytes")
        function = (functions or {}).get(row["problem"]) or f"{row['problem']}/{row['n']}/{row['depth']}/{row['batch']}"
        found.append(
            {
                "function": function, "operator": row["operator"], "order": int(row["order"]), "method": row["method"],
                "dtype": row["dtype"], "device": row["device"], "threads": int(row["threads"]),
                "numel": int(row["numel"]), "seconds": float(row["seconds_min"]),
                "peak_bytes": int(peak) if peak is not None and peak == peak else None,
            }
        )  # fmt: skip
    return found


def remember(name: str, rows: pd.DataFrame, functions: Mapping[str, str] | None = None) -> Path | None:
    """Write them to ``<HOGRAD_CACHE>/<name>.json``, in one step; nothing where the variable is not set.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = os.environ.get(CACHE)
    found = entries(rows, functions) if folder else []
    if not folder or not found:
        return None
    file = Path(folder) / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with store.replacing(file) as staging:
        staging.write_text(json.dumps({"format": FORMAT, "entries": found}), encoding="utf-8")
    return file

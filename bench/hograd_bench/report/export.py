"""The data beside the page: rows of all runs as CSV and Parquet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.csv

_FORMULA = re.compile(r"^[=+\-@\t\r]")


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without their details, reasons of missing metrics as JSON; a metric with text is text throughout."""
    made = rows.drop(columns=[c for c in ("details", "anchor") if c in rows.columns])
    known: dict[int, str] = {}  # equal mappings are one object in a frame from the store

    def encoded(reasons: Any) -> str:
        key = id(reasons)
        if key not in known:
            known[key] = json.dumps(reasons or {}, ensure_ascii=False, sort_keys=True)
        return known[key]

    if "missing" in made:
        made = made.assign(missing=[encoded(m) for m in made["missing"]])
    for column in made.columns[[pd.api.types.is_object_dtype(t) for t in made.dtypes]]:
        made[column] = [v if isinstance(v, str) else None if _absent(v) else str(v) for v in made[column]]
    chosen: pd.DataFrame = made
    return chosen


def _absent(value: Any) -> bool:
    return value is None or value != value


def csv(made: pd.DataFrame, path: Path) -> None:
    """Write CSV, UTF-8. Text that a spreadsheet would run as a formula gets an apostrophe before it."""
    safe = made.copy(deep=False)
    for column in safe.columns[[not pd.api.types.is_numeric_dtype(t) for t in safe.dtypes]]:
        values = safe[column]
        risky = values.notna() & values.astype(str).str.match(_FORMULA)
        if risky.any():
            safe[column] = values.where(~risky, "'" + values.astype(str))
    pyarrow.csv.write_csv(pyarrow.Table.from_pandas(safe, preserve_index=False), path)


def parquet(made: pd.DataFrame, path: Path) -> None:
    """Write Parquet, values as they are."""
    made.to_parquet(path, index=False)


def file_name(text: str) -> str:
    """Text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:60].strip(".") or "run"

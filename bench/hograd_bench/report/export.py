"""The data beside the page: rows of all runs as CSV and Parquet."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

_FORMULA = re.compile(r"^[=+\-@\t\r]")


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without their details, reasons of missing metrics as JSON text; a metric with text has text throughout."""
    made = rows.drop(columns=[c for c in ("details", "anchor") if c in rows.columns])
    known: dict[int, str] = {}  # equal mappings are one object in a frame from the store

    def encoded(reasons: Any) -> str:
        key = id(reasons)
        if key not in known:
            known[key] = json.dumps(reasons or {}, ensure_ascii=False, sort_keys=True)
        return known[key]

    if "missing" in made:
        made = made.assign(missing=[encoded(m) for m in made["missing"]])
    for column in made.columns[made.dtypes == object]:
        made[column] = made[column].map(lambda v: v if isinstance(v, str) else None if pd.isna(v) else str(v))
    return made


def csv(made: pd.DataFrame, path: Path) -> None:
    """Write CSV, UTF-8. Text that a spreadsheet would run as a formula gets an apostrophe before it."""
    safe = made.copy(deep=False)
    for column in safe.columns[[not pd.api.types.is_numeric_dtype(t) for t in safe.dtypes]]:
        values = safe[column]
        risky = values.notna() & values.astype(str).str.match(_FORMULA)
        if risky.any():
            safe[column] = values.where(~risky, "'" + values.astype(str))
    safe.to_csv(path, index=False, encoding="utf-8")


def parquet(made: pd.DataFrame, path: Path) -> None:
    """Write Parquet, values as they are."""
    made.to_parquet(path, index=False)


def file_name(text: str) -> str:
    """Text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:60].strip(".") or "run"

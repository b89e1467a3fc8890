"""Frames of rows that tests write down."""

from __future__ import annotations

import pandas as pd


def frame(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Rows with the columns that every row has, given those that matter."""
    common: dict[str, object] = {
        "operator": "derivative_vector_product",
        "method": "double_backward",
        "problem": "mlp",
        "n": 8,
        "order": 2,
        "depth": 1,
        "batch": 1,
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
        "preparation": "eager",
        "numel": None,
        "status": "ok",
        "reason": "",
        "run": "r1",
        "machine": "synthetic",
    }
    made: pd.DataFrame = pd.DataFrame([{**common, **row} for row in rows])
    return made

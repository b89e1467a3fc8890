"""A Parquet copy of a run's rows, beside them: reading it takes a fraction of the time, and nothing depends on it.

It is made on the first read, of a run in which nothing had to be skipped, and used for as long as rows.jsonl has the
same bytes and is read by the same code. Where it cannot be written or read, the rows themselves are read as ever.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Hashable
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from hograd_bench.metrics import metrics
from hograd_bench.schema import CELL_FIELDS
from hograd_bench.store._common import replacing
from hograd_bench.store._frames import OBJECTS, Details

COPY = ".rows.parquet"
_TEXTS = {"cell", *CELL_FIELDS, "status", "run"}


def read_copy(rows: Path, run: str) -> pd.DataFrame | None:
    """What ``frame_of`` made of the rows, or None where that is not known."""
    try:
        frame = pd.read_parquet(rows.with_name(COPY))
        size = frame.attrs.get("size")
        if size != rows.stat().st_size or frame.attrs != _origin(run, size, _sha256(rows)):
            return None
        for name in frame.columns:
            if name not in _TEXTS and not pd.api.types.is_numeric_dtype(frame[name]):
                texts = frame[name].astype(object)
                frame[name] = texts.where(texts.notna(), None if name in OBJECTS else float("nan"))
        reasons = {text: json.loads(text) for text in frame["missing"].unique()}
        frame["missing"] = pd.Series([reasons[text] for text in frame["missing"]], index=frame.index, dtype=object)
        places = zip(frame["line"], frame.pop("offset"), frame.pop("length"), strict=True)
        details = [Details(rows, int(line), int(offset), int(length)) for line, offset, length in places]
        frame["details"] = pd.Series(details, index=frame.index, dtype=object)
        frame.attrs = {}
    except (OSError, ValueError, TypeError, KeyError):  # none, or damaged, or of rows that are gone
        return None
    return frame


def write_copy(rows: Path, frame: pd.DataFrame, run: str, size: int, sha256: str) -> None:
    """Keep what was made of rows of that size and hash; where that fails, no copy is the copy."""
    flat = frame.drop(columns="details").assign(
        missing=[json.dumps(reasons) for reasons in frame["missing"]],
        offset=[details.offset for details in frame["details"]],
        length=[details.length for details in frame["details"]],
    )
    flat.attrs = _origin(run, size, sha256)
    try:
        with replacing(rows.with_name(COPY)) as staging:
            flat.to_parquet(staging)
    except (OSError, ValueError, TypeError):  # read-only, a full disk, or a metric that is text here and number there
        return


def _origin(run: str, size: int, sha256: str) -> dict[Hashable | None, Any]:
    return {"run": run, "size": size, "sha256": sha256, "code": _code()}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        for block in iter(lambda: opened.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


@functools.cache
def _code() -> str:
    """Hash of the code that makes rows of lines, and of what it takes from the metrics' records."""
    rooms = (resources.files("hograd_bench") / room for room in ("schema", "store"))
    texts = sorted(file.read_bytes() for room in rooms for file in room.iterdir() if file.name.endswith(".py"))
    counted = sorted(name for name, record in metrics().items() if record.nonnegative)
    return hashlib.sha256(b"\0".join([*texts, *(name.encode() for name in counted)])).hexdigest()

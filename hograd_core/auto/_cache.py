"""Times that were measured before: JSON under ``HOGRAD_CACHE``. Only read here."""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

CACHE = "HOGRAD_CACHE"
"""Environment variable: the folder; what is not set is not read."""
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One method on one function at one size.

    Attributes:
        function: identity of the function.
        operator, order, method: what was computed, and how.
        dtype, device, threads: on what.
        numel: elements of x.
        seconds: of a call.
        peak_bytes: most bytes at once, or None.
    """

    function: str
    operator: str
    order: int
    method: str
    dtype: str
    device: str
    threads: int
    numel: int
    seconds: float
    peak_bytes: int | None = None

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Entry:
        """The entry of a JSON object.

        Raises:
            TypeError, ValueError, KeyError: it is none.
        """
        made = cls(**{f.name: given[f.name] for f in fields(cls)})
        numbers = (made.order, made.threads, made.numel)
        if not all(type(v) is int and v > 0 for v in numbers) or not 0 < float(made.seconds) < float("inf"):
            raise ValueError(f"got {given}, expected order, threads, numel and seconds above 0")
        return made


def entries() -> tuple[Entry, ...]:
    """Everything in the cache, in the order of file names; nothing where there is none."""
    folder = os.environ.get(CACHE)
    if not folder:
        return ()
    try:
        files = sorted(Path(folder).glob("*.json"))
        return tuple(entry for file in files for entry in _read(file, file.stat().st_mtime_ns))
    except OSError:
        return ()


@functools.lru_cache(maxsize=64)
def _read(file: Path, changed: int) -> tuple[Entry, ...]:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["format"] != FORMAT:
            raise ValueError(f"format {held['format']!r}, expected {FORMAT}")
        return tuple(Entry.from_json(each) for each in held["entries"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{CACHE}: {file} is left out: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
        return ()

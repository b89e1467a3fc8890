"""Studies: single documents that lie in a machine's folder beside its runs, ``<kind>.<run id>.json``.

They are no runs: :func:`.load` and what is built on it do not see them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hograd_bench.schema import SchemaError, parse_json
from hograd_bench.store._common import StoreError, explained
from hograd_bench.store._writing import new_run_id

_KIND = re.compile(r"[a-z][a-z-]{0,30}")
_MACHINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def write_study(results: str | Path, machine: str, kind: str, document: Mapping[str, Any]) -> Path:
    """Write a study's document; it appears whole or not at all.

    Args:
        results: the results root; made where absent.
        machine: name of the machine's folder, from ``environment.record()``.
        kind: what kind of study, lower case.
        document: JSON-ready, no NaN.

    Returns:
        The file.

    Raises:
        StoreError: a name is no name, or the file cannot be written.
    """
    if not _KIND.fullmatch(kind) or not _MACHINE.fullmatch(machine) or machine == "reference":
        raise StoreError(f"machine, kind: got {machine!r}, {kind!r}, expected names without a path")
    folder = Path(results) / machine
    path = folder / f"{kind}.{new_run_id()}.json"
    staging = folder / f".{path.name}.{secrets.token_hex(4)}"
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False, sort_keys=True)
    try:
        with explained(path, "write"):
            folder.mkdir(parents=True, exist_ok=True)
            with open(staging, "xb") as file:
                file.write(text.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            staging.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            staging.unlink()
        raise
    return path


def newest_study(results: str | Path, kind: str) -> tuple[Path, Any]:
    """The newest study of a kind under a results root or a machine's folder, by its run id.

    Returns:
        Its file and the parsed, unchecked document.

    Raises:
        StoreError: no such folder, no such study, or it cannot be read as JSON.
    """
    root = Path(results)
    if not root.is_dir():
        raise StoreError(f"{root}: no such results folder")
    with explained(root, "list"):
        # Ids count in seconds: of two in the same one, the file that was written later is the newer.
        found = sorted(
            [*root.glob(f"{kind}.*.json"), *root.glob(f"*/{kind}.*.json")],
            key=lambda file: (file.name.rpartition("-")[0], file.stat().st_mtime_ns),
        )
    if not found:
        raise StoreError(f"{root}: holds no {kind} study; make one with `nox -s {kind}`")
    try:
        with explained(found[-1], "read"):
            return found[-1], parse_json(found[-1].read_bytes())
    except SchemaError as error:
        raise StoreError(f"{found[-1]}: {error}") from None

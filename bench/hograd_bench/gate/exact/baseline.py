"""The committed baseline: a run in the ordinary format, cut down to what is the same in every run of the same code.

A folder a key: environment.json, with the facts that exact figures depend on, and rows.jsonl, sorted, one line a cell,
with exact metrics alone and the tables that growth is blamed by. No times, no dates.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hograd_bench import metrics
from hograd_bench.environment import comparable
from hograd_bench.metrics import Metric
from hograd_bench.schema import ENVIRONMENT_SCHEMA, Row, SchemaError, encode, parse_json, validate
from hograd_bench.store import ENVIRONMENT, ROWS

REMEDY = "restore it from git, or --update"
_SAFE = re.compile(r"[^A-Za-z0-9.+-]+")


class BaselineError(ValueError):
    """A baseline that cannot be used; the message names file, line and remedy."""


@dataclass(frozen=True)
class Key:
    """What exact figures depend on besides the code and the cell.

    Attributes:
        torch: full version with its build tag ("2.13.0+cpu").
        machine: architecture ("x86_64").
        isa: instruction set that ATen dispatches to ("AVX2").
        device: "cpu", or the GPU's name.
    """

    torch: str
    machine: str
    isa: str
    device: str = "cpu"

    def __str__(self) -> str:
        return f"torch={self.torch} machine={self.machine} isa={self.isa} device={_SAFE.sub('-', self.device)}"

    @property
    def folder(self) -> str:
        """Name of the key's folder."""
        parts = (f"torch-{self.torch}", self.machine, self.isa, self.device)
        return "_".join(_SAFE.sub("-", part) for part in parts)

    @property
    def facts(self) -> dict[str, Any]:
        """The key as ``environment.comparable`` reads it: these facts decide, and no other is recorded."""
        gpus = [] if self.device == "cpu" else [{"name": self.device}]
        return {
            "torch": {"version": self.torch, "capability": self.isa},
            "cpu": {"architecture": self.machine},
            "gpus": gpus,
        }


def kept(row: Row, records: Mapping[str, Metric], run: str) -> Row:
    """What a baseline keeps of a row: what is the same in every run of the same code."""
    details = row["details"]
    tables: dict[str, Any] = {}
    if ops := details.get("aten_by_op"):
        tables["aten_by_op"] = dict(sorted(ops.items()))
    if peak := peak_by_op(details):
        tables["peak_attribution"] = [
            {"phase": phase, "op": op, "bytes": size} for (phase, op), size in sorted(peak.items())
        ]
    return {
        **row, "run": run, "started": None, "wall_seconds": None, "missing": {}, "details": tables,
        "metrics": exact_metrics(row, records),
    }  # fmt: skip


def exact_metrics(row: Row, records: Mapping[str, Metric]) -> dict[str, int]:
    """The whole numbers of a row that the program determines, by name; the metric's record says which they are."""
    found = {
        n: v for n, v in row["metrics"].items() if n in records and records[n].exact and isinstance(v, int | float)
    }
    return {name: int(value) for name, value in sorted(found.items()) if float(value).is_integer()}


def peak_by_op(details: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Bytes alive at the peak by phase and op."""
    table: dict[tuple[str, str], int] = {}
    for held in details.get("peak_attribution") or ():
        name = (str(held["phase"]), str(held["op"]))
        table[name] = table.get(name, 0) + int(held["bytes"])
    return table


def parse(text: str, where: str) -> dict[str, Row]:
    """Rows by cell.

    Args:
        text: of a rows.jsonl.
        where: its name, for messages.

    Raises:
        BaselineError: a line is damaged; the message names it and the remedy.
    """
    rows: dict[str, Row] = {}
    if not text.strip():
        raise BaselineError(f"{where}: empty, holds no cell; {REMEDY}")
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            row = validate(parse_json(line))
            _check(row)
        except SchemaError as error:
            raise BaselineError(f"{where}:{number}: {error}; {REMEDY}") from None
        if row["cell"] in rows:
            raise BaselineError(f"{where}:{number}: {row['cell']} stands here twice; a merge gone wrong? {REMEDY}")
        rows[row["cell"]] = row
    return rows


def _check(row: Row) -> None:
    if row["status"] == "ok" and not row["metrics"]:
        raise SchemaError(f"{row['cell']} is ok and has no metrics")
    for name, value in row["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise SchemaError(f"metrics[{name!r}]: got {value!r}, expected an integer from 0")
    try:
        numbers = [*(row["details"].get("aten_by_op") or {}).values(), *peak_by_op(row["details"]).values()]
        whole = all(type(n) is int for n in numbers)
    except (AttributeError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise SchemaError("details: expected tables of integers by op, and by phase and op")


def load(folder: Path, key: Key) -> dict[str, Row] | None:
    """The baseline of a key, or None where there is none.

    Raises:
        BaselineError: a file is damaged, cut short, or of another key than the folder's name says.
    """
    place = folder / key.folder
    if not place.is_dir():
        return None
    environment = _environment(place / ENVIRONMENT)
    verdict = comparable(environment, key.facts, "cpu" if key.device == "cpu" else "cuda")
    if verdict.level == "none":
        why = "; ".join(verdict.reasons)
        raise BaselineError(f"{place / ENVIRONMENT}: is not of this key, as the folder's name says ({why}); {REMEDY}")
    metrics.carry(environment)
    file = place / ROWS
    rows = parse(_text(file), str(file))
    expected = environment.get("plan", {}).get("cells")
    if not isinstance(expected, int) or len(rows) < expected:
        raise BaselineError(
            f"{file}:{len(rows)}: ends after {len(rows)} cells, expected {expected} as {ENVIRONMENT} says: the file "
            f"was cut short; {REMEDY}"
        )
    return rows


def _environment(file: Path) -> dict[str, Any]:
    try:
        found = parse_json(_text(file))
    except SchemaError as error:
        raise BaselineError(f"{file}: {error}; {REMEDY}") from None
    if not isinstance(found, dict) or not isinstance(found.get("plan"), dict):
        raise BaselineError(f"{file}: no environment of a baseline; {REMEDY}")
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BaselineError(f"{file}: not text ({error}); {REMEDY}") from error
    except FileNotFoundError:
        raise BaselineError(f"{file}: is not there; {REMEDY}") from None


def save(folder: Path, key: Key, rows: Iterable[Row], records: Mapping[str, Metric]) -> Path:
    """Write a key's baseline; each file in one step: a reader sees the old one or the new one.

    Args:
        folder: of the baselines.
        key: what the figures depend on.
        rows: a row a cell, as measured.
        records: of the metrics.

    Raises:
        OSError: the folder cannot be written.
    """
    made = sorted((kept(row, records, key.folder) for row in rows), key=lambda row: str(row["cell"]))
    named = sorted({name for row in made for name in row["metrics"]})
    environment = {
        "schema": ENVIRONMENT_SCHEMA, **key.facts, "plan": {"cells": len(made)},
        "metrics": metrics.as_json(records[name] for name in named),
    }  # fmt: skip
    target = folder / key.folder
    target.mkdir(parents=True, exist_ok=True)
    # Whole files take the place of the old ones; rows first, because fewer than the environment says are refused.
    _replace(target / ROWS, b"".join(map(encode, made)))
    _replace(target / ENVIRONMENT, json.dumps(environment, indent=1, sort_keys=True).encode() + b"\n")
    return target


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_bytes(content)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def available(folder: Path) -> list[str]:
    """Names of the baselines in a folder."""
    return sorted(p.name for p in folder.glob("torch-*") if (p / ROWS).is_file()) if folder.is_dir() else []

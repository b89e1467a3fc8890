"""Baselines as text: sorted, one line a cell, a file for everything the figures depend on but the code.

    # hograd gate baseline 2
    # torch=2.13.0+cpu machine=x86_64 isa=AVX2 device=cpu
    derivative_tensor/rows/mlp/n=8,... | ok | allocations=12 peak_bytes=3456 | ops mm=3 tanh=1 | peak backward/mm=64
    # end

Threads are part of every cell's id, so one file holds cells of several thread counts. The last line tells a whole file
from one that was cut short, whose lost cells would pass for new ones; unlike a count it survives a merge.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hograd_bench.gate.exact.deterministic import Entry

HEADER = "# hograd gate baseline 2"
FIRST = "# hograd gate baseline 1"  # had no last line; still read, because --since reads old commits
END = "# end"
STATUSES = ("ok", "unsupported", "failed", "crashed", "timeout")
# Digits of a number: more than 64 bits can fill, fewer than what floats hold or int() reads.
MOST_DIGITS = 30
_SAFE = re.compile(r"[^A-Za-z0-9.+-]+")


@dataclass(frozen=True)
class Key:
    """What deterministic figures depend on besides the code and the cell.

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
    def filename(self) -> str:
        """Name of the key's file."""
        parts = (f"torch-{self.torch}", self.machine, self.isa, self.device)
        return "_".join(_SAFE.sub("-", part) for part in parts) + ".txt"


class BaselineError(ValueError):
    """A baseline that cannot be used; the message names file, line and remedy."""


def render(key: Key, entries: Mapping[str, Entry]) -> str:
    """The file's text: sorted by cell, and by name within a line.

    Raises:
        BaselineError: a cell's id or an op's name holds a character that the format reserves.
    """
    lines = [HEADER, f"# {key}", "# written by `hograd gate --update`; read the diff, then commit it"]
    for cell in sorted(entries):
        entry = entries[cell]
        fields = [cell, entry.status, _pairs(entry.metrics)]
        for label, table in (("ops", entry.ops), ("peak", entry.peak)):
            if table:
                fields.append(f"{label} {_pairs(table)}")
        if "|" in cell or any(c.isspace() for c in cell):
            raise BaselineError(f"cell: {cell!r} holds a space or '|', which the baseline's format reserves")
        lines.append(" | ".join(fields))
    return "\n".join([*lines, END]) + "\n"


def _pairs(table: Mapping[str, int]) -> str:
    bad = next((k for k in table if "=" in k or "|" in k or any(c.isspace() for c in k)), None)
    if bad is not None:
        raise BaselineError(f"name: {bad!r} holds a space, '=' or '|', which the baseline's format reserves")
    return " ".join(f"{name}={table[name]}" for name in sorted(table))


def parse(text: str, where: str, key: Key | None = None) -> dict[str, Entry]:
    """Entries by cell.

    Args:
        text: of the file.
        where: its name, for messages.
        key: what the file must say that it is about; None: whatever.

    Raises:
        BaselineError: the text is not a baseline, or a line is damaged; the message names ``where`` and the line.
    """
    lines = text.splitlines()
    if not lines or lines[0].strip() not in (HEADER, FIRST):
        raise BaselineError(
            f"{where}:1: got {lines[0][:60]!r}, expected {HEADER!r}"
            if lines
            else f"{where}: empty; restore it from git"
        )
    if key is not None and (len(lines) < 2 or lines[1].strip() != f"# {key}"):
        said = lines[1][:120] if len(lines) > 1 else ""
        raise BaselineError(
            f"{where}:2: got {said!r}, expected '# {key}', as the file's name says; restore it from git"
        )
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip() or line.startswith("#"):
            continue
        place = f"{where}:{number}"
        fields = [part.strip() for part in line.split("|")]
        if len(fields) < 3:
            raise BaselineError(
                f"{place}: got {line[:80]!r}, expected 'cell | status | metrics [| ops ...] [| peak ...]'"
            )
        cell, status, metrics, *tables = fields
        if status not in STATUSES:
            raise BaselineError(f"{place}: got status {status!r}, expected one of {', '.join(STATUSES)}")
        if status == "ok" and not metrics:
            raise BaselineError(f"{place}: {cell} is ok and has no metrics; restore it from git, or --update")
        if cell in entries:
            raise BaselineError(f"{place}: {cell} stands here twice; a merge gone wrong? Remove one or --update")
        named: dict[str, dict[str, int]] = {}
        for table in tables:
            label, _, rest = table.partition(" ")
            if label not in ("ops", "peak") or label in named:
                raise BaselineError(f"{place}: got table {label!r}, expected ops or peak, once each")
            named[label] = _read(rest, place)
        entries[cell] = Entry(status, _read(metrics, place), named.get("ops", {}), named.get("peak", {}))
    if not entries:
        raise BaselineError(f"{where}: holds no cell; restore it from git, or --update")
    if lines[0].strip() == HEADER and text.rstrip().splitlines()[-1] != END:
        raise BaselineError(
            f"{where}:{len(lines)}: ends with {lines[-1][-60:]!r}, expected {END!r} as the last line: the file was cut "
            "short; restore it from git, or --update"
        )
    return entries


def _read(text: str, place: str) -> dict[str, int]:
    table: dict[str, int] = {}
    for part in text.split():
        name, equals, value = part.rpartition("=")
        if not equals or not re.fullmatch(r"[0-9]+", value, re.ASCII):
            raise BaselineError(f"{place}: got {part[:80]!r}, expected name=integer from 0")
        if len(value) > MOST_DIGITS:
            raise BaselineError(
                f"{place}: {name[:80]} has {len(value):,} digits, expected {MOST_DIGITS} at most; restore it from git, "
                "or --update"
            )
        if name in table:
            raise BaselineError(f"{place}: {name} stands here twice")
        table[name] = int(value)
    return table


def load(folder: Path, key: Key) -> dict[str, Entry] | None:
    """The baseline of a key, or None where there is none.

    Raises:
        BaselineError: the file is damaged, or no text.
    """
    path = folder / key.filename
    if not path.is_file():
        return None
    try:
        return parse(path.read_text(encoding="utf-8"), str(path), key)
    except UnicodeDecodeError as error:
        raise BaselineError(f"{path}: not text ({error}); restore it from git") from error


def save(folder: Path, key: Key, entries: Mapping[str, Entry]) -> Path:
    """Write a key's baseline in one step: a reader sees the old file or the new one.

    Raises:
        OSError: the folder cannot be written.
    """
    text = render(key, entries)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / key.filename
    handle, name = tempfile.mkstemp(dir=folder, prefix=".baseline-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def available(folder: Path) -> list[str]:
    """Names of the baseline files in a folder."""
    return sorted(p.name for p in folder.glob("torch-*.txt")) if folder.is_dir() else []

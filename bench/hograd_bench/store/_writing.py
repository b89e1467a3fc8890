"""Runs open for appending."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from hograd_bench.schema import ENVIRONMENT_SCHEMA, Row, SchemaError, encode, parse_json, tidy, validate
from hograd_bench.store._common import ENVIRONMENT, ROWS, TORN, StoreError, explained, locked
from hograd_bench.store._reading import is_run, read_environment, read_lines

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Run:
    """A run open for appending; made by :func:`create_run` and :func:`open_run`. A context manager.

    Several processes may append to one run at once; each opens it for itself.

    Attributes:
        path: its folder.
        id, machine: names of the folder and of its parent.
        environment: as recorded when the run was created.
    """

    def __init__(self, path: Path, environment: dict[str, Any]) -> None:
        self.path = path
        self.id = path.name
        self.machine = path.parent.name
        self.environment = environment
        self._rows = path / ROWS
        self._file: int | None = None
        self._held: int | None = None
        with explained(self._rows, "open"):
            self._file = os.open(self._rows, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            with explained(self._rows, "repair"), locked(self._file):
                self._repair(self._file)
        except BaseException:
            self.close()
            raise

    def append(self, row: Row) -> Row:
        """Write one row, durably: when this returns, the row survives a crash of the machine.

        Args:
            row: from ``schema.row``; its ``run`` is set to this run.

        Returns:
            The row as written.

        Raises:
            SchemaError: it is not a row.
            StoreError: the disk is full or the file cannot be written; the file is as it was before.
        """
        if self._file is None:
            raise StoreError(f"{self._rows}: the run is closed; open it with open_run")
        made = validate({**row, "run": self.id})
        line = encode(made)
        with explained(self._rows, "write"), locked(self._file):
            self._repair(self._file)
            before = os.fstat(self._file).st_size
            try:
                _write_all(self._file, line)
                os.fsync(self._file)
            except BaseException:
                # Where this fails too, the next writer finds a torn line and moves it.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, before)
                raise
        return made

    def finished_cells(self) -> dict[str, str]:
        """Cell id -> status of every row in the file by now, those of other processes included.

        Raises:
            StoreError: the file cannot be read.
        """
        found: dict[str, str] = {}
        for _, row, problem in read_lines(self._rows, complete=False):
            if row is not None:
                found[row["cell"]] = row["status"]
            elif problem.line is None:
                raise StoreError(str(problem))
        return found

    def hold(self) -> None:
        """Be the one who measures into this run, until it is closed or this process ends.

        Raises:
            StoreError: another process is.
        """
        if self._held is not None or fcntl is None:
            return
        self._held = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise StoreError(
                f"{self.path}: another process is measuring into this run; wait for its end, or start another run"
            ) from None
        except OSError:  # a file system without locks on folders
            self._release()

    def _release(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def close(self) -> None:
        """Close the file; further appends are errors."""
        self._release()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Run:
        return self

    def __del__(self) -> None:
        self.close()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _repair(self, file: int) -> None:
        """Under the lock: a last line without a newline was torn by the death of its writer, for nobody writes now."""
        size = os.fstat(file).st_size
        if size == 0 or _at(file, size - 1, 1) == b"\n":
            return
        start = size
        while start > 0:
            step = min(start, 65536)
            chunk = _at(file, start - step, step)
            newline = chunk.rfind(b"\n")
            if newline >= 0:
                start = start - step + newline + 1
                break
            start -= step
        torn = _at(file, start, size - start)
        with contextlib.suppress(SchemaError):
            validate(parse_json(torn))
            _write_all(file, b"\n")  # only the newline was lost
            return
        with open(self.path / TORN, "ab") as kept:
            kept.write(torn + b"\n")
            kept.flush()
            os.fsync(kept.fileno())
        os.ftruncate(file, start)


def new_run_id() -> str:
    """UTC time to the second and 32 random bits, such as ``20260102T030405Z-9f8e7d6c``; sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def create_run(results: str | Path, environment: Mapping[str, Any], run_id: str | None = None) -> Run:
    """Start a run: its folder appears at once with environment.json and an empty rows.jsonl.

    Args:
        results: the results root; made where absent.
        environment: from ``environment.record()``; its "machine" names the machine's folder.
        run_id: a name for the run, unique within the machine; None: :func:`new_run_id`.

    Raises:
        StoreError: the name is taken or is no name, or the folder cannot be written; nothing is left behind.
    """
    machine = environment.get("machine")
    name = new_run_id() if run_id is None else run_id
    for what, value in (("machine", machine), ("run_id", name)):
        if not isinstance(value, str) or not _NAME.fullmatch(value) or value == "reference":
            raise StoreError(
                f"{what}: got {value!r}, expected a folder name of letters, digits, '.', '_' and '-' other than "
                "'reference'; environment.record() and store.new_run_id() give good ones"
            )
    folder = Path(results) / str(machine)
    path, staging = folder / name, folder / f".{name}.{secrets.token_hex(4)}"
    if path.exists():
        raise StoreError(f"{path}: a run of this name exists; continue it with --resume or choose another name")
    recorded: dict[str, Any] = tidy({"schema": ENVIRONMENT_SCHEMA, **environment})
    try:
        with explained(path, "write"):
            folder.mkdir(parents=True, exist_ok=True)
            staging.mkdir()
            (staging / ROWS).touch()
            with open(staging / ENVIRONMENT, "xb") as file:
                file.write(json.dumps(recorded, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            staging.rename(path)
            _sync_folder(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Run(path, recorded)


def open_run(path: str | Path) -> Run:
    """Open a run to continue it; a torn last line is moved to rows.jsonl.torn.

    Args:
        path: the run's folder; :func:`find_run` gives it by id.

    Raises:
        StoreError: no run there, its environment is damaged, or it cannot be written.
    """
    # Resolved, for the names of the run and its machine are those of the folder and its parent.
    folder = Path(path).resolve()
    if not is_run(folder):
        raise StoreError(f"{path}: no run here, expected a folder with {ENVIRONMENT}")
    environment, problem = read_environment(folder)
    if problem is not None:
        raise StoreError(str(problem))
    return Run(folder, environment)


def _at(file: int, offset: int, length: int) -> bytes:
    """Bytes of the file from an offset on."""
    os.lseek(file, offset, os.SEEK_SET)
    parts = []
    while length > 0 and (part := os.read(file, length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _write_all(file: int, data: bytes) -> None:
    """One write in practice; the kernel may take fewer bytes, e.g. when the disk fills, and says why at the next."""
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; a file system that cannot sync a folder is let be."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)

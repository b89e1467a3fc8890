"""What store's parts share: names of files, errors in one sentence, locks."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: one process a run there
    fcntl = None  # type: ignore[assignment]

ROWS = "rows.jsonl"
ENVIRONMENT = "environment.json"
TORN = "rows.jsonl.torn"
"""Where the bytes of a torn last line are kept."""


class StoreError(RuntimeError):
    """Results cannot be read or written; one sentence with the path and the remedy."""


@dataclass(frozen=True)
class ReadWarning:
    """Something in results/ that was not read.

    Attributes:
        file: the file.
        line: line number from 1, or None where the whole file is meant.
        message: what is wrong with it.
    """

    file: Path
    line: int | None
    message: str

    def __str__(self) -> str:
        where = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.message}"


@contextlib.contextmanager
def locked(file: int) -> Iterator[None]:
    """The exclusive lock of an open file; the kernel drops it when the holder dies."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to fill that takes the place of ``path`` at the end, in one step; where that fails, nothing is left."""
    staging = path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(4)}.part")
    try:
        yield staging
        os.replace(staging, path)
    finally:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)


_REMEDIES: dict[int, str] = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder with --results",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder with --results",
    errno.EFBIG: "the file would grow beyond the limit on file sizes; raise it (ulimit -f) or start a new run",
    errno.EACCES: "permission denied; make it writable or choose another folder with --results",
    errno.EPERM: "operation not permitted; make it writable or choose another folder with --results",
    errno.EROFS: "the file system is read-only; choose another folder with --results",
    errno.ENOTDIR: "a file stands where a folder is needed; move it or choose another folder with --results",
    errno.EEXIST: "a file stands where a folder is needed; move it or choose another folder with --results",
    errno.ENOLCK: "the file system has no locks; choose a local folder with --results",
    errno.ENOTSUP: "the file system has no locks; choose a local folder with --results",
}


@contextlib.contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, f"{error.strerror or error}; choose another folder with --results")
        raise StoreError(f"{path}: cannot {doing}: {remedy}") from error

"""Temporary folders that say whose they are, so that those of processes that were killed can be cleared."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "hograd-"


def name() -> str:
    """How the name of a folder of this process begins."""
    return f"{PREFIX}{os.getpid()}-"


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder; those of dead processes beside it are removed."""
    clear_stale(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=name()) as folder:
        yield Path(folder)


def clear_stale(folder: Path) -> list[Path]:
    """Remove the scratch folders in ``folder`` whose process is dead; returns them."""
    gone = []
    for path in folder.glob(f"{PREFIX}*-*"):
        pid = path.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdecimal() and path.is_dir() and not path.is_symlink() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
            gone.append(path)
    return gone


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

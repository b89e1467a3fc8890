"""Files of one's own: Python files in folders that an environment variable names; child processes inherit it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType


def named_by(variable: str) -> list[Path]:
    """The Python files in the folders that ``variable`` names, separated as PATH is.

    Raises:
        OSError: a folder cannot be read.
    """
    folders = [Path(text) for text in os.environ.get(variable, "").split(os.pathsep) if text]
    return [f for folder in folders for f in sorted(folder.iterdir()) if f.suffix == ".py" and f.name[0] not in "_."]


def describe(error: BaseException) -> str:
    """``Type: first line`` of somebody else's exception, which may be unable to say why."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:
        lines = ["it cannot say why"]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def load(file: Path, package: str) -> ModuleType:
    """Run a file as the module ``package.<stem>``.

    Raises:
        ValueError: it is no Python file. Whatever the file itself raises goes through.
    """
    name = f"{package}.{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file}: not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""Compiled kernels that a new process loads from the disk without inductor, whose import alone takes two seconds.

Inductor keeps the libraries that it makes. Beside them a record, named by all that the code was made from
(:mod:`._key`), says which library it is, its size and its digest, and what is told of the kernel. What is missing,
damaged or of another making is as if it were not there: the kernel is compiled, or found by inductor itself, and the
record written anew. Libraries are loaded as inductor's ``CppPythonBindingsCodeCache`` does.
"""

from __future__ import annotations

import getpass
import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

Entry = Callable[[Any], Any]
_ENTRY = "inductor_entry_cpp"
_POINTER = "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"
_LOADED: dict[tuple[str, str], Entry] = {}


def folder() -> Path:
    """Where inductor keeps what it makes: what ``torch._inductor.runtime.cache_dir_utils`` says, which loads it."""
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if given is None:
        try:
            user = getpass.getuser()
        except (KeyError, ModuleNotFoundError, OSError):
            user = f"uid_{os.getuid()}" if hasattr(os, "getuid") else "unknown_user"
        user = "".join("_" if c in '\\/:*?"<>|' else c for c in user)
        given = os.path.join(tempfile.gettempdir(), f"torchinductor_{user}")
    return Path(given).absolute()


def read(name: str) -> Any:
    """What was written under a name; None: nothing, or something else."""
    with suppress(OSError, ValueError):
        digest, _, text = _place(name).read_text(encoding="utf-8").partition("\n")
        if digest == _digest(name, text):
            return json.loads(text)
    return None


def write(name: str, content: Any) -> None:
    """Keep something under a name, whole or not at all; where nothing can be written, nothing is kept."""
    text = json.dumps(content)
    with suppress(OSError):
        place = _place(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f"{name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(f"{_digest(name, text)}\n{text}")
            os.replace(temporary, place)
        except OSError:
            os.unlink(temporary)
            raise


def forget(name: str) -> None:
    """Have nothing under a name."""
    with suppress(OSError):
        _place(name).unlink()


def _place(name: str) -> Path:
    return folder() / "hograd" / name


def _digest(name: str, text: str) -> str:
    return hashlib.sha256(f"{name}\n{text}".encode()).hexdigest()


def load(content: Any) -> Entry | None:
    """The entry of a library: [handles of tensors] -> handles; None: it is not what :func:`kept` said of it."""
    path = folder() / content["library"]
    known = str(path), content["sha256"]
    if known in _LOADED:
        return _LOADED[known]
    with suppress(ImportError, OSError, AttributeError):
        if path.stat().st_size == content["size"] and _of_file(path) == content["sha256"]:
            _LOADED[known] = _entry(path)
            return _LOADED[known]
    return None


def _of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _entry(path: Path) -> Entry:
    # Python takes the library's PyInit_ function to be named after the last dot.
    spec = importlib.util.spec_from_file_location(f"{path.stem}.{_ENTRY}", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    pointer: Any = torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr  # type: ignore[attr-defined]
    before = os.environ.get(_POINTER)
    os.environ[_POINTER] = str(pointer)  # read while the library is loaded
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        if before is None:
            del os.environ[_POINTER]
        else:
            os.environ[_POINTER] = before
    entry: Entry = getattr(module, _ENTRY)
    return entry


def kept(entry: Entry) -> dict[str, Any] | None:
    """Which library an entry is of, for later processes; None: one that inductor does not keep."""
    module = getattr(entry, "__self__", None)
    file = getattr(module, "__file__", None)
    if isinstance(module, ModuleType) and file is not None:
        with suppress(OSError, ValueError):
            path = Path(file).absolute()
            library = str(path.relative_to(folder()))  # elsewhere: another folder was set meanwhile
            return {"library": library, "size": path.stat().st_size, "sha256": _of_file(path)}
    return None

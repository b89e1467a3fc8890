"""A name for the compiled code of a function: a digest of all that it depends on, told without a trace.

PyTorch's tracer loads dynamo and inductor, in two seconds. So the function is called once more, and what it does is
written down: each operation as PyTorch dispatches it, below autograd, with what it takes and gives. All that follows,
the trace, the passes and the compiler, depends on that and on settings. Where something has an influence that is not
written down, there is no name, and no code is looked for (:mod:`._kept`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from hograd_core.prepare.graphs._trace import DispatchMode, apart, watched

_READ = ("TORCH", "ATEN_", "CXX", "CC", "CFLAGS", "CPATH", "CPLUS_", "C_INCLUDE", "LIBRARY_PATH", "GCC_", "INDUCTOR")
_PLACE = "TORCHINDUCTOR_CACHE_DIR"
_PLAIN = (bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))


def _environment() -> list[tuple[str, str]]:
    """Variables that inductor or the compiler may read; where libraries lie is none that code depends on."""
    return sorted((k, v) for k, v in os.environ.items() if k.startswith(_READ) and k != _PLACE)


_AT_IMPORT = _environment()


@functools.cache
def _making() -> str:
    """What code depends on beside a function and is fixed in a process: torch, the files of this package, the CPU."""
    digest = hashlib.sha256()
    for part in (torch.__version__, torch.version.git_version, torch.__file__, sys.version, _processor()):
        digest.update(repr(part).encode())
    for file in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(repr((file.name, hashlib.sha256(file.read_bytes()).hexdigest())).encode())
    return digest.hexdigest()


def _processor() -> list[str]:
    """Its sets of instructions: code is built for all that the CPU has."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        first = itertools.takewhile(str.strip, lines)
        return [line for line in first if line.startswith(("model name", "flags", "CPU part", "Features"))]
    return [platform.machine()]


def _changed(config: Any) -> bool:
    """Whether a setting of inductor is not what it is without anyone's doing; what was put back is."""
    try:
        overridden = config._get_dict(skip_default=True)
        return any(config._config[name].default != value for name, value in overridden.items())
    except AttributeError:
        return True


def settings() -> list[Any] | None:
    """What code depends on beside a function; None: on something that is not known, so that nothing is kept."""
    if os.environ.get("TORCHINDUCTOR_FORCE_DISABLE_CACHES") == "1" or _environment() != _AT_IMPORT:
        return None  # inductor reads variables when it is imported
    loaded: Any = sys.modules.get("torch._inductor.config")
    if loaded is not None and _changed(loaded):
        return None  # a process without inductor could not tell
    return [
        _making(), _AT_IMPORT, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(),
        torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled,
        torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    ]  # fmt: skip


class Named(NamedTuple):
    """What a function does, by name.

    Attributes:
        name: the digest.
        outside: tensors that it refers to and was not given, in the order in which it first reads them.
    """

    name: str
    outside: list[Tensor]

    def of(self, *made: Any) -> Named:
        """The name of something that is made of it, as these say."""
        return Named(hashlib.sha256(repr((self.name, made)).encode()).hexdigest(), self.outside)


def named(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Named | None:
    """The name of a function (*inputs) -> tensor for inputs such as these; None: it has none."""
    beside = settings()
    if beside is None:
        return None
    try:
        recorder = _Recorder([t.detach().clone() for t in inputs])
        with watched() as run, recorder:
            result = run(function)(*recorder.given)
        recorder.lines.append(recorder.said(result))
        kinds = list(map(_kind, inputs))  # clones may lie otherwise in memory
    except Exception:  # whatever it is: without a name it comes again, where it is told
        return None
    text = "\n".join([repr(beside), *kinds, *recorder.lines])
    return Named(hashlib.sha256(text.encode()).hexdigest(), recorder.outside)


class _NamelessError(Exception):
    pass


class _Recorder(DispatchMode):
    """Writes down operations; tensors are numbered as they come."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given = given
        self.lines: list[str] = []
        self.outside: list[Tensor] = []
        self._numbers: Any = WeakTensorKeyDictionary()
        self._count = 0
        self._places: dict[int, int] = {}
        for t in given:
            self.lines.append(f"given {self._new(t)}")

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Write one down, and run it."""
        # Of other namespaces a name does not tell what is done.
        if not isinstance(func, torch._ops.OpOverload) or func.namespace not in ("aten", "prims"):
            raise _NamelessError
        fresh = func is torch.ops.aten.lift_fresh.default and args[0] not in self._numbers
        taken = _constant(args[0]) if fresh else f"{self.said(args)} {self.said(kwargs or {})}"
        result = func(*args, **(kwargs or {}))
        gives = [self._new(t) if isinstance(t, Tensor) else self.said(t) for t in tree_leaves(result)]
        self.lines.append(f"{func} {taken} -> {', '.join(gives)}")
        return result

    def _new(self, t: Tensor) -> str:
        self._numbers[t] = self._count
        self._count += 1
        return f"%{self._numbers[t]}: {_kind(t)}"

    def _from_outside(self, t: Tensor) -> None:
        """Number a tensor that nothing here made; those that share memory are known to."""
        if type(t) not in (Tensor, torch.nn.Parameter):
            raise _NamelessError
        place = self._places.setdefault(t.untyped_storage().data_ptr(), len(self._places))
        self.outside.append(t)
        self.lines.append(f"outside {self._new(t)} {type(t).__name__} {t.requires_grad} {place} {t.storage_offset()}")

    def said(self, argument: Any) -> str:
        """An argument, so that different ones read differently."""
        if isinstance(argument, Tensor):
            if argument not in self._numbers:
                self._from_outside(argument)
            return f"%{self._numbers[argument]}"
        if isinstance(argument, list | tuple):
            return f"[{', '.join(map(self.said, argument))}]"
        if isinstance(argument, dict):
            return f"{{{', '.join(f'{k}: {self.said(v)}' for k, v in argument.items())}}}"
        if type(argument) not in _PLAIN:
            raise _NamelessError
        return repr(argument)


def _kind(t: Tensor) -> str:
    if t.device.type != "cpu" or t.layout is not torch.strided or t.is_conj() or t.is_neg():
        raise _NamelessError
    return repr((t.dtype, tuple(t.shape), t.stride()))


def _constant(t: Tensor) -> str:
    """A number that a function makes anew in each call, which becomes part of the code."""
    if t.dim():
        raise _NamelessError
    with apart():
        return f"{_kind(t)} {t.reshape(1).view(torch.uint8).tolist()}"

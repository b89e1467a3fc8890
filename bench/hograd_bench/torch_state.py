"""What a function must leave alone, since it changes what is measured after it: settings of torch, and torch itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch


class _Setting(NamedTuple):
    read: Callable[[], Any]
    write: Callable[[Any], object]
    said: str
    """What was done, with the value that is found."""


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "one that is gone"


def _go_to(folder: str) -> None:
    with contextlib.suppress(OSError):
        os.chdir(folder)


_THREADS = _Setting(torch.get_num_threads, torch.set_num_threads, "set torch's threads to {}")
_FOLDER = _Setting(_folder, _go_to, "changed the working folder to {}")
_OF_TORCH = (
    _Setting(torch.get_default_dtype, torch.set_default_dtype, "set the default dtype to {}"),
    _Setting(
        torch.get_default_device,
        # One that is set stands in the way of every call, the CPU too.
        lambda device: torch.set_default_device(None if device == torch.device("cpu") else device),
        "set the default device to {}",
    ),
    _Setting(torch.is_grad_enabled, torch.set_grad_enabled, "set torch.set_grad_enabled to {}"),
    _Setting(
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
        "set torch.use_deterministic_algorithms to {}",
    ),
    _Setting(
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
        "set torch's precision of float32 products to {}",
    ),
    _Setting(
        torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, "set autograd's detection of anomalies to {}"
    ),
    _Setting(
        lambda: torch.is_autocast_enabled("cpu"),
        lambda enabled: torch.set_autocast_enabled("cpu", enabled),
        "set autocast on the CPU to {}",
    ),
)
_NAMESPACES: tuple[Any, ...] = (torch, torch.Tensor, torch.nn.functional, torch.autograd, torch.linalg)
_SEED = 20_071
_TORCH = Path(torch.__file__).parent


@contextmanager
def kept() -> Iterator[list[str]]:
    """Have the block leave torch and the process as it found them; what it changed is listed at the end, in words."""
    changed: list[str] = []
    settings = (_THREADS, *_OF_TORCH, _FOLDER)
    before = [setting.read() for setting in settings]
    variables = dict(os.environ)
    namespaces = [dict(vars(namespace)) for namespace in _NAMESPACES]
    try:
        yield changed
    finally:
        changed += _different(settings, before)
        for setting, value in zip(settings, before, strict=True):
            if setting.read() != value:
                setting.write(value)
        # New ones stay: torch itself sets some when parts of it are first loaded.
        others = {name: value for name, value in variables.items() if os.environ.get(name) != value}
        if others:
            changed.append(f"changed the environment variables {', '.join(sorted(others))}")
            os.environ.update(others)
        for namespace, then in zip(_NAMESPACES, namespaces, strict=True):
            now = vars(namespace)
            for name in [name for name in then if callable(then[name]) and now.get(name) is not then[name]]:
                if _is_torch(now.get(name)):
                    continue  # torch wraps some of its own when parts of it are first loaded
                changed.append(f"replaced {getattr(namespace, '__name__', namespace)}.{name}")
                setattr(namespace, name, then[name])


@contextmanager
def noted() -> Iterator[list[str]]:
    """The settings of torch that the block changed, and that stay, are in the list at the end, in words."""
    changed: list[str] = []
    before = [setting.read() for setting in _OF_TORCH]
    try:
        yield changed
    finally:
        changed += _different(_OF_TORCH, before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Pin torch's intra-op threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _different(settings: tuple[_Setting, ...], before: list[Any]) -> list[str]:
    now = [setting.read() for setting in settings]
    each = zip(settings, before, now, strict=True)
    return [setting.said.format(found) for setting, then, found in each if found != then]


def _is_torch(found: Any) -> bool:
    """Whether torch wrote it; a wrapper of somebody else's may carry the name of what it wraps, but not its file."""
    code = getattr(found, "__code__", None)
    if code is not None:
        return Path(code.co_filename).is_relative_to(_TORCH)
    return str(getattr(found, "__module__", "")).partition(".")[0] == "torch"


def seed(value: int) -> None:
    """As ``torch.manual_seed``, which for each kind of device that is not in use yet would keep a traceback a call."""
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)


def seeds(call: Any) -> tuple[Any, bool]:
    """What a call returns, and whether it seeded torch's generator."""
    seed(_SEED)
    result = call()
    return result, torch.initial_seed() != _SEED

"""What a function must leave alone, since it changes what is measured after it: settings of torch, and torch itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_NAMESPACES: tuple[Any, ...] = (torch, torch.Tensor, torch.nn.functional, torch.autograd, torch.linalg)
_SEED = 20_071
_TORCH = Path(torch.__file__).parent


@contextmanager
def kept() -> Iterator[list[str]]:
    """Have the block leave torch as it found it; what it changed is in the list at the end, in words."""
    changed: list[str] = []
    settings = (torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device())
    folder = os.getcwd()
    grad, deterministic = torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
    before = [dict(vars(namespace)) for namespace in _NAMESPACES]
    try:
        yield changed
    finally:
        threads, dtype, device = settings
        if torch.get_num_threads() != threads:
            changed.append(f"set torch's threads to {torch.get_num_threads()}")
            torch.set_num_threads(threads)
        if torch.get_default_dtype() != dtype:
            changed.append(f"set the default dtype to {torch.get_default_dtype()}")
            torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            changed.append(f"set the default device to {torch.get_default_device()}")
            torch.set_default_device(device)
        if os.getcwd() != folder:
            changed.append(f"changed the working folder to {os.getcwd()}")
            os.chdir(folder)
        if torch.is_grad_enabled() != grad:
            changed.append("switched gradients off")
            torch.set_grad_enabled(grad)
        if torch.are_deterministic_algorithms_enabled() != deterministic:
            changed.append("changed torch.use_deterministic_algorithms")
            torch.use_deterministic_algorithms(deterministic)
        for namespace, then in zip(_NAMESPACES, before, strict=True):
            now = vars(namespace)
            for name in [name for name in then if callable(then[name]) and now.get(name) is not then[name]]:
                if _is_torch(now.get(name)):
                    continue  # torch wraps some of its own when parts of it are first loaded
                changed.append(f"replaced {getattr(namespace, '__name__', namespace)}.{name}")
                setattr(namespace, name, then[name])


def _is_torch(found: Any) -> bool:
    """Whether torch wrote it; a wrapper of somebody else's may carry the name of what it wraps, but not its file."""
    code = getattr(found, "__code__", None)
    if code is not None:
        return Path(code.co_filename).is_relative_to(_TORCH)
    return str(getattr(found, "__module__", "")).partition(".")[0] == "torch"


def seeds(call: Any) -> tuple[Any, bool]:
    """What a call returns, and whether it seeded torch's generator."""
    torch.manual_seed(_SEED)
    result = call()
    return result, torch.initial_seed() != _SEED

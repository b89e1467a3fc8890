"""What a function must leave alone, since it changes what is measured after it: settings of torch, and torch itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_NAMESPACES: tuple[Any, ...] = (torch, torch.Tensor, torch.nn.functional, torch.autograd, torch.linalg)
_SEED = 20_071


@contextmanager
def kept() -> Iterator[list[str]]:
    """Have the block leave torch as it found it; what it changed is in the list at the end, in words."""
    changed: list[str] = []
    settings = (torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device())
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
        if torch.is_grad_enabled() != grad:
            changed.append("switched gradients off")
            torch.set_grad_enabled(grad)
        if torch.are_deterministic_algorithms_enabled() != deterministic:
            changed.append("changed torch.use_deterministic_algorithms")
            torch.use_deterministic_algorithms(deterministic)
        for namespace, then in zip(_NAMESPACES, before, strict=True):
            now = vars(namespace)
            for name in [name for name in then if callable(then[name]) and now.get(name) is not then[name]]:
                if str(getattr(now.get(name), "__module__", "")).startswith("torch._"):
                    continue  # torch wraps some of its own when parts of it are first loaded
                changed.append(f"replaced {getattr(namespace, '__name__', namespace)}.{name}")
                setattr(namespace, name, then[name])


def seeds(call: Any) -> tuple[Any, bool]:
    """What a call returns, and whether it seeded torch's generator."""
    torch.manual_seed(_SEED)
    result = call()
    return result, torch.initial_seed() != _SEED

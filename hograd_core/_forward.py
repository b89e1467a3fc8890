"""Forward mode, one thread at a time.

PyTorch keeps the level of forward mode, and how deep its jvp is nested, in variables of the process: where two threads
are in forward mode, the one that leaves first takes the other's tangents away, which then are errors or zeros (torch
2.13). Every forward-mode step of the library goes through here, so that its functions may be called from threads;
reverse mode, torch.func's grad, vjp and vmap, and Taylor mode keep their state by thread and run side by side. What
callers do with ``torch.func.jvp`` or ``torch.autograd.forward_ad`` in other threads meanwhile is beyond it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch

_ONE_AT_A_TIME = threading.RLock()


def jvp(f: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...], **options: Any) -> Any:
    """``torch.func.jvp``."""
    with _ONE_AT_A_TIME:
        return torch.func.jvp(f, primals, tangents, **options)


def jacfwd(f: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.func.jacfwd``."""
    columns = torch.func.jacfwd(f)

    @functools.wraps(columns)
    def locked(*arguments: Any) -> Any:
        with _ONE_AT_A_TIME:
            return columns(*arguments)

    return locked

"""Running an operator from inside a dispatch mode as it would have run without the mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_PLAIN = torch._C._disabled_torch_dispatch_impl
_ZERO = torch._C.DispatchKey.ZeroTensor


def run_beneath(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call ``func`` from a mode's handler.

    NOTE [zero tangents] Forward mode has tensors that are known to be zero and own no memory. Most operators meet
    PyTorch's ZeroTensor kernels before a mode; a few (mul.Scalar, add.Scalar) fall through and rely on meeting
    them later, in the operator they are made of. Inside a mode's handler that key is excluded, and the kernel would
    read the tensor's null storage and crash the process (torch 2.13). Re-admitting the key restores the usual way.

    Args:
        func: the operator.
        args: its arguments as the handler got them.
        kwargs: its keyword arguments.

    Returns:
        The operator's result.
    """
    if not any(isinstance(a, Tensor) and a._is_zerotensor() for a in args):
        return func(*args, **kwargs)
    included = torch._C._dispatch_tls_local_include_set()
    excluded = torch._C._dispatch_tls_local_exclude_set().remove(_ZERO)
    with torch._C._ForceDispatchKeyGuard(included, excluded):
        return func(*args, **kwargs)


def answered_by_subclass(types: Sequence[type]) -> bool:
    """Whether an argument's class answers the operator itself, as a Taylor series does.

    A mode's handler then returns NotImplemented: the class is asked, and what it runs comes to the mode again.
    """
    return any(getattr(kind, "__torch_dispatch__", _PLAIN) is not _PLAIN for kind in types)

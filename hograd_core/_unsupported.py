"""Recognises what PyTorch itself cannot differentiate, so that it is reported and never crashes a sweep.

Each entry pairs a pattern of PyTorch's own message with a short name for the limit. An error that matches
no entry is a defect of f or of ours and is raised unchanged. Out-of-memory errors match nothing here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch


class UnsupportedError(RuntimeError):
    """PyTorch cannot compute this operator by this method for this function.

    Attributes:
        reason: PyTorch's own message, first line, prefixed with the kind of limit.
    """

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: unsupported by PyTorch: {reason}")
        self.reason = reason


# Anchored to the start of PyTorch's own wording (2.13), so that an error of f that speaks of vmap or jvp is not taken
# for one. tests/core/test_unsupported.py provokes each of them.
_LIMITS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("no forward-mode formula", r"^Trying to use forward AD with \S+ that does not support it"),
        ("no forward-mode formula", r"^You must implement the jvp function for custom autograd\.Function"),
        ("no forward-mode formula", r"^Trying to set a forward gradient that has a different size"),
        ("ZeroTensors", r"^ZeroTensors are immutable"),
        ("no derivative formula", r"^(the )?derivative for '?[^']+'? is not implemented"),
        (
            "no derivative formula",
            r"^trying to differentiate twice a function that was marked with @once_differentiable",
        ),
        ("no derivative formula", r"^You must implement either the backward or vjp method"),
        ("no derivative formula", r"^torch\.compile with aot_autograd does not currently support double backward"),
        ("no batching rule", r"^Batching rule not implemented for "),
        ("no batching rule", r"^vmap over \S+ isn't supported yet"),
        ("no batching rule", r"^vmap: we do not yet support \S+\. Please file an issue"),
        ("no batching rule", r"^You tried to vmap over \w+, but it does not have vmap support"),
        ("no batching rule", r"^\w+ is unsupported for Sparse tensors"),
        ("in-place under vmap", r"^vmap: inplace arithmetic\(self, \*extra_args\) is not possible"),
        ("in-place under vmap", r"^Batch norm got a batched tensor as input while the running_mean or running_var"),
        (
            "dynamic shape under vmap",
            r"^vmap: We do not support batching operators that can (support|output) dynamic shape",
        ),
        (
            "data-dependent control flow",
            r"^vmap: It looks like you're (either \(1\) )?(calling \.item\(\)|attempting to use a Tensor)",
        ),
        ("randomness under vmap", r"^vmap: called random operation while in randomness error mode"),
        ("custom Function without setup_context", r"^In order to use an autograd\.Function with functorch transforms"),
        ("saved-tensor hooks barred", r"^torch\.func\.\{.*\} don't yet support saved tensor hooks"),
        ("autograd inside torch.func", r"^backward\(\) called inside a functorch transform"),
        ("autograd inside torch.func", r"^You are attempting to call Tensor\.requires_grad_\(\)"),
        ("autograd inside torch.func", r"^mutating directly with `\.data` inside functorch transform"),
        ("no storage under torch.func", r"^Cannot access data pointer of Tensor that doesn't have storage"),
        ("defect of torch.func", r"^flat_bdims must not be None"),
        ("reentrant checkpoint", r"^When use_reentrant=True, torch\.utils\.checkpoint is incompatible with"),
        ("aten kernel missing", r"^Could not run 'aten::\S+' with arguments from"),
        ("aten kernel missing", r"^\"\w+\" not implemented for '\w+'"),
    )
)


# What f may be at fault for as well, but where reverse mode goes over forward mode, whose formulas write in place.
_REVERSE_OVER_FORWARD = (
    (
        "in-place in a forward-mode formula",
        re.compile(r"^one of the variables needed for gradient computation has been modified by an inplace operation"),
    ),
)


def pytorch_limit(error: BaseException, *, reverse_over_forward: bool = False) -> str | None:
    """The limit of PyTorch that ``error`` reports, as ``kind: first line of its message``, or None.

    Args:
        error: of PyTorch, or of f.
        reverse_over_forward: whether reverse mode goes over forward mode, which goes through f.
    """
    message = str(error).strip()
    for kind, pattern in (*_LIMITS, *(_REVERSE_OVER_FORWARD if reverse_over_forward else ())):
        if pattern.search(message):
            return f"{kind}: {message.splitlines()[0]}"
    return None


# What PyTorch's own kernels say where vmap hands them shapes that they do not expect (recurrent layers, 2.13).
_MISMATCH = re.compile(r"doesn't match the broadcast shape|must match the size of tensor|is invalid for input of size")


@contextlib.contextmanager
def refused_under_vmap(where: str, remedy: str, plain: Callable[[], Any] | None = None) -> Iterator[None]:
    """Around a vmap of what runs without: a mismatch of shapes within is reported as the layer's.

    Args:
        where: operator and method, for the message.
        remedy: for the message.
        plain: runs the same without vmap, and is called where vmap fails: what fails there too is the caller's.

    Raises:
        UnsupportedError: a layer cannot be vectorised.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if isinstance(error, UnsupportedError) or _MISMATCH.search(str(error)) is None:
            raise
        if plain is not None:
            plain()
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedError(where, f"a layer fails under torch.func.vmap ({reason}); {remedy}") from error

"""Bytes that autograd saves for its backward passes, each storage counted once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from hograd_bench.metrics._flops import tensors
from hograd_bench.metrics._modes import answered_by_subclass, run_beneath


@dataclass(frozen=True)
class Saved:
    """What a call saved for backward.

    Attributes:
        bytes: of all distinct storages saved, over the whole call.
        older_bytes: the part in storages that existed before the call (arguments, parameters, data of f).
        tensors: number of times that a tensor was saved.
    """

    bytes: int
    older_bytes: int
    tensors: int


class _Births(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each storage that an operator's result shows for the first time and that none of its inputs showed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.older: dict[int, StorageWeakRef] = {}
        self.born: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if answered_by_subclass(types):
            return NotImplemented
        for weak in _weak_references((args, *kwargs.values()) if kwargs else args):
            if weak.cdata not in self.born:
                self.older.setdefault(weak.cdata, weak)
        out = run_beneath(func, args, kwargs or {})
        for weak in _weak_references(out):
            if weak.cdata not in self.older:
                self.born.setdefault(weak.cdata, weak)
        return out


def _weak_references(tree: Any) -> list[StorageWeakRef]:
    """Weak references keep a storage's identity unique without keeping its bytes."""
    return [_weak(t.untyped_storage()) for t in tensors(tree) if _has_storage(t)]


def _weak(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor._is_zerotensor()


def saved_for_backward(call: Callable[[], Any]) -> Saved:
    """Run ``call`` once and account for what its graphs save.

    Args:
        call: takes nothing.

    Returns:
        See :class:`Saved`. Cost: several times the call.

    Raises:
        RuntimeError: PyTorch bars saved-tensor hooks in this call (torch.func transforms of reverse mode).
    """
    births = _Births()
    seen: dict[int, StorageWeakRef] = {}
    total = older = count = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total, older, count
        count += 1
        bottom = tensor
        while _functorch.is_functorch_wrapped_tensor(bottom):
            bottom = _functorch.get_unwrapped(bottom)
        if _has_storage(bottom):
            storage = bottom.untyped_storage()
            weak = _weak(storage)
            if weak.cdata not in seen:
                seen[weak.cdata] = weak
                total += storage.nbytes()
                older += storage.nbytes() if weak.cdata not in births.born else 0
        return tensor.detach()  # the tensor itself would close a reference cycle where a node saves its own output

    with births, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return Saved(total, older, count)

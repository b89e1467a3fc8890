"""One run of f on the tape as a list of operations: what each took that depends on x, and what it gave.

Every ATen operation passes by below autograd (:class:`torch.utils._python_dispatch.TorchDispatchMode`), where views are
other objects than those that f sees: tensors are told by the place and the shape of their memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from hograd_core.arguments import _tree
from hograd_core.sparse._operations import Call, name_of
from hograd_core.sparse._trace import written


@dataclass(eq=False)
class Value:
    """A tensor that depends on x, as an operation gave it.

    Attributes:
        tensor: in whose place something else may be written later: then ``over`` is where its gradient arrives.
        index: its place in the order of the run.
        known: False where it is not clear which operation wrote it.
        users: what took it.
    """

    tensor: Tensor
    index: int
    known: bool = True
    over: Any = None
    users: list[Step] = field(default_factory=list)

    @property
    def edge(self) -> Any:
        """Where its gradient arrives; None: no graph was recorded of it."""
        if self.over is None and self.tensor.requires_grad:
            self.over = get_gradient_edge(self.tensor)
        return self.over


@dataclass(eq=False)
class Step:
    """An operation.

    Attributes:
        by: the operation itself; None: what lies in the memory of others, written over in part.
        taken: its arguments that depend on x, each as often as it is given.
        given: what it made.
        versions: of all tensors among its arguments, by id; None: of inference mode.
        live: whether the result of f depends on it.
    """

    by: Call | None
    taken: list[tuple[Tensor, Value]]
    given: list[Value]
    versions: dict[int, int | None]
    live: bool = False

    @property
    def name(self) -> str:
        """Of the operation, in place or not."""
        return "" if self.by is None else name_of(self.by.func)

    @property
    def call(self) -> Call:
        """The operation, of a step that is one."""
        assert self.by is not None
        return self.by

    def value(self, argument: Any) -> Value | None:
        """What an argument is among those that depend on x."""
        return next((value for tensor, value in self.taken if tensor is argument), None)

    def intact(self, tensor: Tensor) -> bool:
        """Whether an argument still holds what it held then."""
        then = self.versions[id(tensor)]
        return then is not None and tensor._version == then


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what happens to a leaf.

    Attributes:
        steps: in the order of the run.
        first: the leaf.
        lost: whether something else may depend on the leaf, too, or complex numbers do, by which no Hessian is meant.
    """

    def __init__(self, point: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self._count = 0
        self.lost = False
        self._known: dict[int | None, dict[Any, Value]] = {}
        self._held: dict[int | None, list[Value]] = {}
        self.first = self._assigned(point)

    def close(self) -> None:
        """Part steps and values, which refer to one another, so that tensors go with the last that uses them."""
        for step in self.steps:
            step.taken.clear()
            step.given.clear()

    def value(self, tensor: Tensor) -> Value | None:
        """What a tensor is; None: it does not depend on x."""
        if not tensor.requires_grad:
            return None
        address = tensor.untyped_storage()._cdata if tensor.layout is torch.strided else None
        if address not in self._known:
            # Of strange memory only what nothing was computed from is certainly not made of x.
            self.lost |= address is None or tensor.grad_fn is not None
            return None
        found = self._known[address].get(_place(tensor))
        if found is None:
            found = self._made(tensor, known=False)
            self._record(None, [(each.tensor, each) for each in self._held[address]], [found], {})
        if not found.tensor.requires_grad:  # of a view f has another object, which the graph is recorded of
            found.tensor = tensor
        return found

    def _record(self, call: Call | None, taken: Any, given: list[Value], versions: dict[int, int | None]) -> None:
        step = Step(call, taken, given, versions)
        self.steps.append(step)
        for _, value in taken:
            value.users.append(step)

    def _made(self, tensor: Tensor, known: bool = True) -> Value:
        self._count += 1
        self.lost |= tensor.is_complex()
        return Value(tensor, self._count, known)

    def _assigned(self, tensor: Tensor) -> Value:
        made = self._made(tensor)
        if tensor.layout is torch.strided:  # the storage stays alive, so that its address is not used again
            address = tensor.untyped_storage()._cdata
            self._known.setdefault(address, {})[_place(tensor)] = made
            self._held.setdefault(address, []).append(made)
        return made

    def _forget(self, tensor: Tensor) -> None:
        """What lay in the memory of a tensor was written over: views of it are not followed."""
        here = self._known.get(tensor.untyped_storage()._cdata, {})
        for value in here.values():
            value.known &= value.over is not None
        here.clear()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation, and record it where it takes what depends on x."""
        kwargs = kwargs or {}
        tensors = [t for t in _tree.leaves((tuple(args), kwargs)) if isinstance(t, Tensor)]
        over = written(func, args, kwargs) if func._schema.is_mutable else set()
        with torch._C.DisableTorchFunction():
            taken = [(t, value) for t in tensors if (value := self.value(t)) is not None]
            for tensor, value in taken:
                if id(tensor) in over:
                    _ = value.edge  # before the operation takes its place
            versions = {id(t): None if t.is_inference() else t._version for t in tensors}
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            for tensor in tensors:
                if id(tensor) in over:
                    self._forget(tensor)
            if taken:
                given = [self._assigned(t) for t in _tree.leaves(out) if isinstance(t, Tensor)]
                self._record(Call(None, func, args, kwargs, out), taken, given, versions)
        return out


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """For numbers that are none of f's values, such as those of samples: whoever traces f sees nothing of the block."""
    with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():
        yield

"""Which second derivatives of f can differ from zero: found by following what depends on what through one run of f.

f runs on plain tensors, on the tape, and every ATen operation passes by (:class:`torch.utils._python_dispatch.
TorchDispatchMode`). For each element of each tensor that depends on x the set of elements of x it depends on is kept,
by storage, so that views and in-place writes need no rules; where an operation is not linear, the pairs it makes
interact are noted (Gower & Mello 2012; Hill & Dalle 2025). All is an upper bound: an operation without a rule or a
decomposition is one in which everything that goes in interacts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hograd_core.arguments import _tree
from hograd_core.sparse._operations import Call
from hograd_core.sparse._rules import everything, rule_of
from hograd_core.sparse._sets import Pairs, Sets, TooManyError, empty, numbers, sets, stacked

_READING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what depends on the elements of a point.

    Args:
        x: the point; elements counted row-major.
        kinds: of each element its number below the count of different ones; elements of one kind are not told
            apart. None: each is a kind of its own.
        stop: whether to end f's run with the error where tracing gives up, instead of following it to its end.

    Attributes:
        full: whether tracing gave up: any two elements may interact.
        looked: whether what was found rests on values of tensors (positions, zeros of a matrix).
        read: whether f itself saw values, by which it may have chosen what it computes.
        blind: whether zeros of a matrix are taken for numbers that may be others.
    """

    blind = False

    def __init__(self, x: Tensor, kinds: Tensor | None = None, *, stop: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        every = numbers(x.numel())
        kinds = every if kinds is None else kinds
        self.n = int(kinds.max()) + 1
        self.full = self.looked = self.read = False
        self._stop = stop
        self._pairs = Pairs(self.n, steps=min(max(2**22, 4 * self.n**2), 2**28))
        self._known: dict[int, tuple[Any, int, Sets]] = {}
        self.assign(x, sets(every, kinds, x.numel(), self.n))

    def pattern(self) -> Sets:
        """Of each element of x those that it may have a second derivative with that is not zero; symmetric."""
        if not self.full:
            return self._pairs.pattern()
        every = numbers(self.n)
        return Sets(numbers(self.n + 1) * self.n, every.repeat(self.n), self.n)

    def interact(self, a: Sets, b: Sets) -> None:
        """Note that, set by set, members of a have a second derivative with members of b."""
        self._pairs.join(a, b)

    def sets_of(self, tensor: Tensor) -> Sets | None:
        """What each element of a tensor depends on, row-major; None: it is a constant."""
        if tensor.layout is not torch.strided:
            return None
        storage = tensor.untyped_storage()
        known = self._known.get(storage._cdata)
        if known is None:
            return None
        _, size, found = known
        if size != tensor.element_size():
            raise TooManyError
        return found if _whole(tensor, found.m) else found.taken(_positions(tensor, found.m))

    def assign(self, tensor: Tensor, found: Sets | None) -> None:
        """What each element of a tensor depends on from now on."""
        storage, size = tensor.untyped_storage(), tensor.element_size()
        known = self._known.get(storage._cdata)
        if known is None and (found is None or not found.members.numel()):
            return
        found = empty(tensor.numel(), self.n) if found is None else found
        m = storage.nbytes() // size
        if not _whole(tensor, m):
            before = empty(m, self.n) if known is None else known[2]
            row = numbers(m)
            row[_positions(tensor, m)] = numbers(m, m + found.m)
            found = stacked([before, found]).taken(row)
        self._known[storage._cdata] = (storage, size, found)  # the storage itself, so that its address is not reused

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation, and note what its result depends on."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.read |= not _READING.isdisjoint(func.tags)
        if not self.full:
            try:
                with torch._C.DisableTorchFunction():  # modes around are about what f does
                    self.follow(func, args, kwargs, out)
            except TooManyError:
                self.full = True
                if self._stop:
                    raise
        return out

    def follow(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        """Note what the result of an operation depends on."""
        arguments = [t for t in _tree.leaves((tuple(args), kwargs)) if isinstance(t, Tensor)]
        storages = {_address(t) for t in arguments}
        if storages.isdisjoint(self._known):
            return
        results = [t for t in _tree.leaves(out) if isinstance(t, Tensor)]
        if func._schema.is_mutable:
            if not written(func, args, kwargs) <= {id(t) for t in results}:
                raise TooManyError
        else:
            views = [_address(t) in storages for t in results]
            if all(views):
                return
            if any(views):
                raise TooManyError
        if any(t.is_complex() or t.layout is not torch.strided for t in [*arguments, *results]):
            raise TooManyError
        if not any(t.dtype.is_floating_point for t in results):
            return
        call = Call(self, func, args, kwargs, out)
        rule = rule_of(func)
        found = self._decomposed(func, args, kwargs) if rule is None else rule(call)
        found = everything(call) if found is None else found
        for tensor, each in zip(results, found if isinstance(found, list) else [found] * len(results), strict=True):
            if tensor.dtype.is_floating_point:
                self.assign(tensor, each)

    def _decomposed(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Sets | None] | None:
        """By the operations that PyTorch takes an operation apart into; None: it does not."""
        from torch._decomp import decomposition_table  # seconds to import

        random = torch.Tag.nondeterministic_seeded in func.tags  # a second run would draw again
        apart = None if func._schema.is_mutable or random else decomposition_table.get(func)
        if apart is None:
            return None
        try:
            with self:
                found = apart(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            return None
        if self.full:
            raise TooManyError
        return [
            self.sets_of(t) if t.dtype.is_floating_point else None for t in _tree.leaves(found) if isinstance(t, Tensor)
        ]


def written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> set[int]:
    """The tensors that an operation writes to, by id."""
    given = {**dict(zip((a.name for a in func._schema.arguments), args, strict=False)), **kwargs}
    marked = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return {id(t) for t in _tree.leaves([given.get(name) for name in marked]) if isinstance(t, Tensor)}


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)


def _whole(tensor: Tensor, m: int) -> bool:
    """Whether a tensor is its storage, element by element."""
    return tensor.numel() == m and tensor.is_contiguous()


def _positions(tensor: Tensor, m: int) -> Tensor:
    """Where in a storage of m elements those of a tensor lie, row-major."""
    every = numbers(m)
    return every.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).reshape(-1)

"""Which objects lead back to a module tree, and copies of them that lead to copies of the tree."""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Get = Callable[[Any], Any]

_ATOMIC = frozenset(
    {int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size, torch.layout}
    | {torch.memory_format, torch.Generator, range, slice, type, types.ModuleType, types.BuiltinFunctionType}
)
_MUTABLE = (list, dict, set, deque, types.CellType)
_IMMUTABLE = (tuple, frozenset, types.MethodType, functools.partial, types.FunctionType, weakref.ref)
# Enough for any module that was met; what lies further is shared, and found in the graph if it matters.
_LIMIT = 50_000


class Copier:
    """Copies of the roots in which some tensors are replaced; all that does not lead to ``targets`` is shared.

    Args:
        roots: where to start.
        targets: modules, which are copied, and tensors, which may be replaced.
    """

    def __init__(self, roots: tuple[Any, ...], targets: Iterable[Any]) -> None:
        self._roots = roots
        found = _leading(roots, {id(t) for t in targets})
        self._objects: list[tuple[Any, tuple[str, ...]]] = []
        self._slots: list[tuple[Any, tuple[str, ...]]] = []
        self._mutable: list[Any] = []
        self._compiled: list[Any] = []
        frozen: dict[int, Any] = {}
        # What a closure counts in its cells is the copy's, as what forward writes to self.
        closures = [one for one in found.values() if isinstance(one, types.FunctionType)]
        found.update((id(cell), cell) for one in closures for cell in one.__closure__ or ())
        for key, one in found.items():
            if isinstance(one, _IMMUTABLE):
                frozen[key] = one
            elif isinstance(one, _MUTABLE):
                self._mutable.append(one)
            elif type(one).__name__ == "OptimizedModule" and isinstance(one, nn.Module):
                self._compiled.append(one)
            elif not isinstance(one, Tensor):
                special = _DICTS if isinstance(one, nn.Module) else ()
                names = tuple(n for n, v in one.__dict__.items() if id(v) in found and n not in special)
                self._objects.append((one, names))
                kind: Any = type(one)
                if slots := _slots_of(kind):
                    self._slots.append((one, slots))
        # The dicts of modules are made anew with them.
        own = {id(one.__dict__[n]) for one, _ in self._objects if isinstance(one, nn.Module) for n in _DICTS}
        self._mutable = [one for one in self._mutable if id(one) not in own]
        self._frozen = _in_order(frozen)

    def copies(self, memo: dict[int, Any]) -> tuple[Any, ...]:
        """The roots' copies; ``memo`` has the replacements of tensors by the id of the original, and is filled up."""
        get, new = memo.get, object.__new__
        for one, _ in self._objects:
            memo[id(one)] = new(type(one))
        for one in self._compiled:
            # torch.compile differentiates once only; the module that it was made from computes the same.
            memo[id(one)] = memo[id(one._modules["_orig_mod"])]
        for one in self._mutable:
            memo[id(one)] = types.CellType() if type(one) is types.CellType else copy.copy(one)

        def image(one: Any) -> Any:
            return get(id(one), one)

        for one in self._frozen:
            memo[id(one)] = _made(one, image)
        for one, names in self._objects:
            state = memo[id(one)].__dict__
            state.update(one.__dict__)
            if isinstance(one, nn.Module):
                for name in _DICTS:
                    state[name] = {k: get(id(v), v) for k, v in state[name].items()}
                # What torch.compile made of it holds the original.
                state["_compiled_call_impl"] = None
            for name in names:
                if name in state:
                    state[name] = get(id(state[name]), state[name])
        for one, slots in self._slots:
            for name in slots:
                if hasattr(one, name):
                    object.__setattr__(memo[id(one)], name, image(getattr(one, name)))
        for one in self._mutable:
            _fill(memo[id(one)], one, image)
        return tuple(map(image, self._roots))


_DICTS = ("_parameters", "_buffers", "_modules")


def _leading(roots: tuple[Any, ...], targets: set[int]) -> dict[int, Any]:
    """Everything on a way from the roots to a target, by id, in the order met."""
    seen: dict[int, Any] = {id(root): root for root in roots}
    parents: dict[int, list[int]] = {}
    queue = deque(roots)
    while queue and len(seen) < _LIMIT:
        one = queue.popleft()
        for child in _children(one):
            if type(child) in _ATOMIC:
                continue
            key = id(child)
            parents.setdefault(key, []).append(id(one))
            if key not in seen:
                seen[key] = child
                queue.append(child)
    found = set(targets)
    stack = list(targets)
    while stack:
        for parent in parents.get(stack.pop(), ()):
            if parent not in found:
                found.add(parent)
                stack.append(parent)
    return {key: one for key, one in seen.items() if key in found and not isinstance(one, torch.jit.ScriptModule)}


def _children(one: Any) -> Iterable[Any]:
    """What an object refers to; nothing for kinds that cannot be copied."""
    if isinstance(one, Tensor | type | types.ModuleType | torch.jit.ScriptModule):
        return ()
    if isinstance(one, dict):
        return () if _ATOMIC.issuperset(map(type, one.values())) and _ATOMIC.issuperset(map(type, one)) else (
            *one, *one.values()
        )  # fmt: skip
    if isinstance(one, list | tuple | set | frozenset | deque):
        return () if _ATOMIC.issuperset(map(type, one)) else one
    if isinstance(one, types.MethodType):
        return (one.__self__, one.__func__)
    if isinstance(one, functools.partial):
        return (one.func, *one.args, *one.keywords.values())
    if isinstance(one, types.FunctionType):
        return (*(one.__closure__ or ()), *(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values())
    if isinstance(one, types.CellType):
        return _contents(one)
    if isinstance(one, weakref.ref):
        referent = one()
        return () if referent is None else (referent,)
    kind: Any = type(one)
    if not _copyable(kind) or not hasattr(one, "__dict__"):
        return ()
    return (*one.__dict__.values(), *(getattr(one, name) for name in _slots_of(kind) if hasattr(one, name)))


def _contents(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # empty
        return ()


@functools.cache
def _copyable(kind: Any) -> bool:
    """Whether objects of this class can be made from their ``__dict__`` and slots; none of torch's own is followed."""
    if not issubclass(kind, nn.Module) and kind.__module__.partition(".")[0] == "torch":
        return False
    try:
        object.__new__(kind)
    except TypeError:
        return False
    return True


@functools.cache
def _slots_of(kind: Any) -> tuple[str, ...]:
    """Names of the slots of a class and of its bases."""
    names: list[str] = []
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                hidden = name.startswith("__") and not name.endswith("__")
                names.append(f"_{base.__name__.lstrip('_')}{name}" if hidden else name)
    return tuple(names)


def _in_order(frozen: dict[int, Any]) -> list[Any]:
    """Immutable objects, each after those that it holds."""
    order: list[Any] = []
    done: set[int] = set()
    for root in frozen.values():
        stack = [(root, False)]
        while stack:
            one, finished = stack.pop()
            if finished:
                order.append(one)
            elif id(one) not in done:
                done.add(id(one))
                stack.append((one, True))
                stack += [(child, False) for child in _children(one) if id(child) in frozen]
    return order


def _made(one: Any, image: Get) -> Any:
    """An immutable object anew, holding the images of what it holds."""
    if isinstance(one, types.MethodType):
        return types.MethodType(image(one.__func__), image(one.__self__))
    if isinstance(one, functools.partial):
        return type(one)(image(one.func), *map(image, one.args), **{k: image(v) for k, v in one.keywords.items()})
    if isinstance(one, types.FunctionType):
        return _function(one, image)
    if isinstance(one, weakref.ref):
        return weakref.ref(image(one()))
    if isinstance(one, frozenset):
        return type(one)(map(image, one))
    return type(one)._make(map(image, one)) if hasattr(one, "_make") else type(one)(map(image, one))


def _function(one: types.FunctionType, image: Get) -> types.FunctionType:
    defaults = None if one.__defaults__ is None else tuple(map(image, one.__defaults__))
    cells = None if one.__closure__ is None else tuple(map(image, one.__closure__))
    made = types.FunctionType(one.__code__, one.__globals__, one.__name__, defaults, cells)
    made.__kwdefaults__ = None if one.__kwdefaults__ is None else {k: image(v) for k, v in one.__kwdefaults__.items()}
    made.__qualname__, made.__module__, made.__doc__ = one.__qualname__, one.__module__, one.__doc__
    made.__dict__.update(one.__dict__)
    return made


def _fill(new: Any, one: Any, image: Get) -> None:
    """Give the copy of a mutable object the images of what the original holds."""
    if isinstance(one, types.CellType):
        for contents in _contents(one):
            new.cell_contents = image(contents)
    elif isinstance(one, list):
        new[:] = list(map(image, one))
    elif isinstance(one, dict):
        items = [(image(k), image(v)) for k, v in one.items()]
        new.clear()
        new.update(items)
    else:
        items = list(map(image, one))
        new.clear()
        (new.update if isinstance(one, set) else new.extend)(items)

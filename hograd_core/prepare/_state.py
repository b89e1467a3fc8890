"""What f refers to in Python, as it was when f was traced: a change of it makes a new trace necessary.

Watched are the variables that f closes over, the global names it reads, its code and defaults, what bound methods and
partials hold, entries of lists, sets and dictionaries, attributes of objects and modules (``training`` among them),
what code reads of their classes and of Python modules, and so on through all of these; tensors by their identity, since
their values are inputs of a graph. What lies in a file, behind C, or in an installed package, cannot be seen.
"""

from __future__ import annotations

import builtins
import functools
import operator
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from types import CellType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hograd_core.prepare._condition import Condition

_CONTENTS = operator.attrgetter("cell_contents")
_MOST = 512
_UNROLLED = 16
"""Entries of a list or dictionary up to which each is looked at by code of its own."""
_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size, tuple)
_TORCH = ("torch", "math")
_OWN = (*_TORCH, "hograd_core")
_NOT_CALLED = ("__init__", "__new__", "__repr__", "__str__", "__init_subclass__", "__del__", "__hash__")
"""What a function calls by its name, or not at all."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class State:
    """A snapshot.

    Attributes:
        whole: whether all that was found is watched; very large structures are watched in part.
    """

    __slots__ = (
        "_attributes", "_cells", "_default", "_is_same", "_lists", "_mappings", "_named", "_read", "_seen", "_sets",
        "_sized", "_sizes", "_spaces", "_then", "whole",
    )  # fmt: skip

    def __init__(self, function: Callable[..., Any]) -> None:
        self._cells: list[CellType] = []
        self._lists: list[Sequence[Any]] = []
        self._sets: list[tuple[set[Any], set[Any]]] = []
        self._sized: list[Mapping[Any, Any]] = []
        self._attributes: list[tuple[Any, list[str]]] = []
        self._spaces: list[tuple[Mapping[str, Any], set[str]]] = []
        self._read = {"forward"}  # names that code reads, and what is called without a name
        self._mappings: list[Mapping[Any, Any]] = []
        self._named: list[tuple[Mapping[Any, Any], list[Any]]] = []
        self._seen: dict[int, Any] = {}  # the objects themselves, so that no id is used again
        self.whole = True
        self._default = torch.get_default_dtype()
        self._visit(function)
        self._look_up()
        self._sizes = self._lengths()
        self._then = [*self._now()]
        self._is_same = self._condition().made()

    def holds(self) -> bool:
        """Whether all of it still is what it was; numbers and texts may be others that are equal."""
        if torch.get_default_dtype() is not self._default:
            return False
        try:
            sizes = self._lengths() == self._sizes and all(now == then for now, then in self._sets)
            return sizes and all(map(_same, self._now(), self._then))
        except (AttributeError, KeyError, ValueError, RuntimeError):  # gone, without a value, or changed meanwhile
            return False

    def still(self) -> bool:
        """The same, in little time where nothing changed: part of every call."""
        try:
            if self._is_same():
                return True
        except (AttributeError, LookupError, ValueError, RuntimeError):
            pass
        return self.holds()

    def _lengths(self) -> list[int]:
        return [*map(len, self._lists), *map(len, self._mappings), *map(len, self._sized)]

    def _now(self) -> Iterator[Any]:
        yield from map(_CONTENTS, self._cells)
        yield from chain(*self._lists)
        for mapping in self._mappings:
            yield from chain(mapping.keys(), mapping.values())
        for mapping, names in self._named:
            yield from map(mapping.__getitem__, names)
        for value, attributes in self._attributes:
            yield from (getattr(value, attribute) for attribute in attributes)

    def _condition(self) -> Condition:
        """All of it being the very objects that it was."""
        condition = Condition()
        name = condition.name
        same = name(operator.is_)
        condition.require(f"{name(torch.get_default_dtype)}() is {name(self._default)}")
        for cell in self._cells:
            condition.require(f"{name(cell)}.cell_contents is {condition.literal(cell.cell_contents)}")
        if empty := [name(held) for held in (*self._lists, *self._mappings) if not held]:
            condition.require(f"not ({' or '.join(empty)})")
        for values in filter(None, self._lists):
            here = name(values)
            condition.require(f"len({here}) == {len(values)}")
            if len(values) > _UNROLLED:
                condition.require(f"all(map({same}, {here}, {name([*values])}))")
            else:
                for i, value in enumerate(values):
                    condition.require(f"{here}[{i}] is {condition.literal(value)}")
        for mapping in filter(None, self._mappings):
            here, keys = name(mapping), [*mapping]
            plain = type(mapping) is dict and all(type(key) is str for key in keys)
            condition.require(f"len({here}) == {len(keys)}")
            # Their order counts, too. Texts that are equal are the same; of other keys, 1 == True == 1.0.
            if len(keys) > 1 or not plain:
                condition.require(f"[*{here}] == {name(keys)}" if plain else f"all(map({same}, {here}, {name(keys)}))")
            if len(keys) > _UNROLLED or not plain:
                condition.require(f"all(map({same}, {here}.values(), {name([*mapping.values()])}))")
            else:
                self._named_values(condition, mapping, keys)
        for mapping, names in self._named:
            self._named_values(condition, mapping, names)
        for mapping in self._sized:
            condition.require(f"len({name(mapping)}) == {len(mapping)}")
        for now, then in self._sets:
            condition.require(f"{name(now)} == {name(then)}")
        for value, attributes in self._attributes:
            here = name(value)
            for attribute in attributes:
                condition.require(f"{here}.{attribute} is {condition.literal(getattr(value, attribute))}")
        return condition

    @staticmethod
    def _named_values(condition: Condition, mapping: Mapping[Any, Any], names: list[Any]) -> None:
        here = condition.name(mapping)
        for key in names:
            condition.require(f"{here}[{key!r}] is {condition.literal(mapping[key])}")

    def _mapping(self, mapping: Mapping[Any, Any], names: list[Any] | None = None) -> None:
        """Watch a dictionary: all that it holds and that there is nothing else, or the values of these names."""
        if names is None:
            self._mappings.append(mapping)
        else:
            self._named.append((mapping, names))
        for value in [*mapping, *mapping.values()] if names is None else [mapping[name] for name in names]:
            self._visit(value)

    def _look_up(self) -> None:
        """Watch what code reads of classes and modules; what these hold may read more."""
        looked = True
        while looked:
            looked = False
            for space, known in list(self._spaces):
                names = sorted(self._read.intersection(list(space)) - known)
                known.update(names)
                looked = looked or bool(names)
                self._mapping(space, names)

    def _visit(self, value: Any) -> None:
        if isinstance(value, _PLAIN) and not isinstance(value, tuple):
            return
        if id(value) in self._seen:
            return
        if len(self._seen) >= _MOST:
            self.whole = False
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            if vars(value):
                self._mapping(vars(value))
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, ModuleType):
            if not _is_installed(value.__name__):
                self._spaces.append((vars(value), set()))
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, MethodType):
            self._visit(value.__func__)
            self._visit(value.__self__)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._visit(part)
        elif isinstance(value, property):
            self._visit(value.fget)
        elif isinstance(value, staticmethod | classmethod):
            self._visit(value.__func__)
        elif isinstance(value, dict):
            self._mapping(value)
        elif isinstance(value, list | tuple | deque):
            if not isinstance(value, tuple):
                self._lists.append(value)
            for item in value:
                self._visit(item)
        elif isinstance(value, set):
            self._sets.append((value, set(value)))
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, Iterator) or _is_buffer(value):
            self.whole = False
        elif not type(value).__module__.startswith("torch._"):
            self._object(value)

    def _object(self, value: Any) -> None:
        state = getattr(value, "__dict__", None)
        if isinstance(state, dict):
            self._mapping(state)
        self._visit(type(value))
        kinds = [kind for kind in type(value).__mro__ if not _of_library(kind)]
        slots = [name for kind in kinds for name, held in vars(kind).items() if isinstance(held, MemberDescriptorType)]
        slots = [name for name in slots if hasattr(value, name)]
        self._attributes.append((value, slots))
        for name in slots:
            self._visit(getattr(value, name))

    def _module(self, module: nn.Module) -> None:
        state = module.__dict__
        self._sized.append(state)
        self._mapping(state, [name for name, v in state.items() if not (name.startswith("_") and isinstance(v, dict))])
        for name in ("_parameters", "_buffers", "_modules", *_HOOKS):
            self._mapping(state[name])
        self._visit(type(module))

    def _class(self, kind: type) -> None:
        """A class with those that it inherits from; Python calls methods with two underscores without their names."""
        for each in kind.__mro__:
            if not _of_library(each):
                implicit = (name for name, held in vars(each).items() if isinstance(held, FunctionType))
                self._read.update(name for name in implicit if name[:2] == "__" and name not in _NOT_CALLED)
                self._spaces.append((vars(each), set()))

    def _function(self, function: FunctionType) -> None:
        if _root(function.__globals__.get("__name__")) in _TORCH:
            for cell in function.__closure__ or ():  # what a decorator or a transform of torch's calls
                with suppress(ValueError):
                    if callable(cell.cell_contents):
                        self._visit(cell.cell_contents)
            return
        for cell in function.__closure__ or ():
            try:
                self._visit(cell.cell_contents)
                self._cells.append(cell)
            except ValueError:  # a variable without a value yet
                self.whole = False
        read = _names(function.__code__)
        self._read.update(read)
        self._mapping(function.__globals__, [name for name in read if name in function.__globals__])
        self._attributes.append((function, ["__code__", "__defaults__", "__kwdefaults__"]))
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._visit(default)
        if function.__dict__:
            self._spaces.append((function.__dict__, set()))


@functools.lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[str, ...]:
    """Names that code may read from its module, that of functions within it too."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return tuple(dict.fromkeys((*code.co_names, *inner)))


def _root(module: Any) -> str:
    """The package that a module belongs to."""
    return module.partition(".")[0] if isinstance(module, str) else ""


def _of_library(kind: type) -> bool:
    """Whether a class is torch's, ours, or Python's own: these change with their version only."""
    root = _root(kind.__module__)
    if root == "builtins":  # so says, too, a class that was made without a module
        return getattr(builtins, kind.__name__, None) is kind
    return root in _OWN or (root in sys.stdlib_module_names and root != "__main__")


@functools.lru_cache(maxsize=1024)
def _is_installed(module: str) -> bool:
    """Whether a module is of a package that was installed, or Python's own: nobody changes it while it is used."""
    root = _root(module)
    found = sys.modules.get(root)
    places = [*getattr(found, "__path__", ()), getattr(found, "__file__", None) or ""]
    own = root in _OWN or (root in sys.stdlib_module_names and root != "__main__")
    return own or any("-packages" in str(place) for place in places)


def _is_buffer(value: Any) -> bool:
    """Whether it holds numbers that can be written without its being another object."""
    try:
        return not memoryview(value).readonly
    except (TypeError, ValueError, BufferError):
        return False


def _same(now: Any, then: Any) -> bool:
    """Whether two values are one object, or equal numbers or texts."""
    if now is then:
        return True
    if type(now) is tuple and type(then) is tuple:
        return len(now) == len(then) and all(map(_same, now, then))
    return type(now) is type(then) and isinstance(now, _PLAIN) and bool(now == then)

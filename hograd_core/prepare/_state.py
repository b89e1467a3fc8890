"""What f refers to in Python, as it was when f was traced: a change of it makes a new trace necessary.

Watched are the variables that f closes over, the global names it reads, defaults, what bound methods and partials hold,
entries of lists and dictionaries, attributes of objects and modules (``training`` among them), and so on through all
of these; tensors by their identity, since their values are inputs of a graph. What lies deeper than that, or in a file,
or behind C, cannot be seen.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hograd_core.prepare._condition import Condition

_CONTENTS = operator.attrgetter("cell_contents")
_MOST = 512
_UNROLLED = 16
"""Entries of a list or dictionary up to which each is looked at by code of its own."""
_PLAIN = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size, tuple)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class State:
    """A snapshot.

    Attributes:
        whole: whether all that was found is watched; very large structures are watched in part.
    """

    __slots__ = ("_cells", "_default", "_is_same", "_lists", "_mappings", "_named", "_seen", "_sizes", "_then", "whole")

    def __init__(self, function: Callable[..., Any]) -> None:
        self._cells: list[CellType] = []
        self._lists: list[list[Any]] = []
        self._mappings: list[Mapping[Any, Any]] = []
        self._named: list[tuple[Mapping[Any, Any], list[Any]]] = []
        self._seen: dict[int, Any] = {}  # the objects themselves, so that no id is used again
        self.whole = True
        self._default = torch.get_default_dtype()
        self._visit(function)
        self._sizes = self._lengths()
        self._then = [*self._now()]
        self._is_same = self._condition().made()

    def holds(self) -> bool:
        """Whether all of it still is what it was; numbers and texts may be others that are equal."""
        if torch.get_default_dtype() is not self._default:
            return False
        try:
            return self._lengths() == self._sizes and all(map(_same, self._now(), self._then))
        except (KeyError, ValueError, RuntimeError):  # gone, without a value, or changed meanwhile
            return False

    def still(self) -> bool:
        """The same, in little time where nothing changed: part of every call."""
        try:
            if self._is_same():
                return True
        except (LookupError, ValueError, RuntimeError):
            pass
        return self.holds()

    def _lengths(self) -> list[int]:
        return [*map(len, self._lists), *map(len, self._mappings)]

    def _now(self) -> Iterator[Any]:
        yield from map(_CONTENTS, self._cells)
        yield from chain(*self._lists)
        for mapping in self._mappings:
            yield from chain(mapping.keys(), mapping.values())
        for mapping, names in self._named:
            yield from map(mapping.__getitem__, names)

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

    def _visit(self, value: Any) -> None:
        if isinstance(value, _PLAIN) and not isinstance(value, tuple):
            return
        if isinstance(value, Tensor | ModuleType | type) or id(value) in self._seen:
            return
        if len(self._seen) >= _MOST:
            self.whole = False
            return
        self._seen[id(value)] = value
        if isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, MethodType):
            self._visit(value.__func__)
            self._visit(value.__self__)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self._visit(part)
        elif isinstance(value, dict):
            self._mapping(value)
        elif isinstance(value, list | tuple):
            if isinstance(value, list):
                self._lists.append(value)
            for item in value:
                self._visit(item)
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(getattr(value, "__dict__", None), dict) and not _of_library(type(value)):
            self._mapping(value.__dict__)
            self._visit(vars(type(value)).get("__call__"))

    def _module(self, module: nn.Module) -> None:
        state = module.__dict__
        self._mapping(state, [name for name, v in state.items() if not (name.startswith("_") and isinstance(v, dict))])
        for name in ("_parameters", "_buffers", "_modules", *_HOOKS):
            self._mapping(state[name])
        if not _of_library(type(module)):
            self._visit(type(module).forward)

    def _function(self, function: FunctionType) -> None:
        if _of_library(function):
            return
        for cell in function.__closure__ or ():
            try:
                self._visit(cell.cell_contents)
                self._cells.append(cell)
            except ValueError:  # a variable without a value yet
                self.whole = False
        names = [name for name in _names(function.__code__) if name in function.__globals__]
        self._mapping(function.__globals__, names)
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._visit(default)


@functools.lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[str, ...]:
    """Names that code may read from its module, that of functions within it too."""
    inner = [name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant)]
    return tuple(dict.fromkeys((*code.co_names, *inner)))


def _of_library(value: Any) -> bool:
    """Whether a function or class is torch's or Python's own: these change with their version only."""
    return (getattr(value, "__module__", None) or "builtins").partition(".")[0] in ("torch", "builtins", "math")


def _same(now: Any, then: Any) -> bool:
    """Whether two values are one object, or equal numbers or texts."""
    if now is then:
        return True
    if type(now) is tuple and type(then) is tuple:
        return len(now) == len(then) and all(map(_same, now, then))
    return type(now) is type(then) and isinstance(now, _PLAIN) and bool(now == then)

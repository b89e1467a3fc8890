"""A module as a function of its tensors: called with others in their place, itself never touched.

``torch.func.functional_call`` swaps the tensors of the module for the length of the call. That is wrong where a part of
the forward pass runs again later (a checkpoint recomputes in the backward pass, with the module's own weights by then),
and where two threads call one module. Here every call gets a light copy of the module tree instead: new module objects
of the same classes that share everything but the tensors given. A graph that needs them again keeps them alive.
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_OWN = frozenset({"_parameters", "_buffers", "_modules"})
_ATOMS = (str, bytes, int, float, complex, bool, type(None), type, torch.dtype, torch.device, torch.Size)
_DEPTH = 6  # of containers and objects that may lie between a module and a module or tensor that it holds unregistered


class Functional:
    """A module whose parameters and buffers are arguments.

    The copies share all else with the module: flags such as ``training`` are those of the time of the call. What a
    forward pass writes to its module (a counter, a cache, running statistics) is written to the copy and dropped.
    Thread-safe: nothing shared is written.

    Args:
        module: any nn.Module that Python code runs.

    Raises:
        TypeError: the module is compiled to TorchScript or spread over devices, or has parameters that are not
            materialised yet; the message says what to pass instead.
    """

    def __init__(self, module: nn.Module) -> None:
        self._root = module
        for part in self._root.modules():
            _refuse(part)

    def __call__(
        self,
        values: Mapping[str, Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        *,
        hooks: Mapping[str, Callable[..., Any]] | None = None,
    ) -> Any:
        """What the module returns for ``args``, with these tensors in place of its own.

        Args:
            values: by a name of each, as in ``named_parameters()`` and ``named_buffers()``; a tied tensor is replaced
                under all its names. Parameters not named stay the module's; buffers not named are cloned.
            args: positional arguments of the module.
            kwargs: its keyword arguments.
            hooks: forward hooks for this call, by the name of the submodule.
        """
        return self._copy(values, hooks or {})(*args, **(kwargs or {}))

    def _copy(self, values: Mapping[str, Tensor], hooks: Mapping[str, Callable[..., Any]]) -> nn.Module:
        tensors: dict[int, Tensor] = {}
        made: dict[int, Any] = {}
        named = [(f"{n}." if n else "", part) for n, part in self._root.named_modules(remove_duplicate=False)]
        for prefix, part in named:
            if id(part) not in made and _uncompiled(part) is part:
                made[id(part)] = object.__new__(type(part))
            for name, tensor in (*part._parameters.items(), *part._buffers.items()):
                if tensor is None:
                    continue
                if (value := values.get(prefix + name)) is not None:
                    tensors[id(tensor)] = value
                elif tensor.is_inference():  # which autograd cannot save
                    tensors.setdefault(id(tensor), tensor.clone())
        for _, part in named:
            if id(part) not in made:
                made[id(part)] = made[id(_uncompiled(part))]
            for buffer in part._buffers.values():
                if buffer is not None and id(buffer) not in tensors:
                    tensors[id(buffer)] = buffer.clone()
        swap = _Swap(tensors, made)
        for prefix, part in named:
            if _uncompiled(part) is part:
                _fill(made[id(part)], part, swap, hooks.get(prefix[:-1]))
        copied: nn.Module = made[id(self._root)]
        return copied


def _fill(made: nn.Module, part: nn.Module, swap: _Swap, hook: Callable[..., Any] | None) -> None:
    """Give a new module what the old one has, with the stand-ins in their places."""
    attributes = dict(part.__dict__)
    attributes["_parameters"] = {n: swap.tensor(p) for n, p in part._parameters.items()}
    attributes["_buffers"] = {n: swap.tensor(b) for n, b in part._buffers.items()}
    attributes["_modules"] = {n: swap.module(m) for n, m in part._modules.items()}
    for name, value in part.__dict__.items():
        if name not in _OWN and not isinstance(value, _ATOMS) and not (isinstance(value, dict | list) and not value):
            attributes[name] = swap(value)
    if hook is not None:
        attributes["_forward_hooks"] = OrderedDict({**attributes["_forward_hooks"], "hograd": hook})
    object.__setattr__(made, "__dict__", attributes)
    for kind in type(part).__mro__:
        for slot in kind.__dict__.get("__slots__", ()):
            if hasattr(part, slot) and slot != "__dict__":
                object.__setattr__(made, slot, swap(getattr(part, slot)))


class _Swap:
    """Rebuilds whatever leads to a module or tensor of the tree, so that it leads to the stand-in; shares all else."""

    def __init__(self, tensors: Mapping[int, Tensor], modules: Mapping[int, Any]) -> None:
        self._tensors = tensors
        self._modules = modules
        self._seen: dict[int, tuple[Any, Any]] = {}

    def tensor(self, tensor: Tensor | None) -> Tensor | None:
        """The stand-in of a tensor, or itself."""
        return tensor if tensor is None else self._tensors.get(id(tensor), tensor)

    def module(self, module: nn.Module | None) -> Any:
        """The stand-in of a module, or itself."""
        return module if module is None else self._modules.get(id(module), module)

    def __call__(self, value: Any, depth: int = _DEPTH) -> Any:
        """``value`` with stand-ins, or ``value`` itself where it leads to none."""
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, _ATOMS) or not depth:
            return value
        if id(value) in self._seen:
            return self._seen[id(value)][1]
        self._seen[id(value)] = (value, value)  # a cycle ends here; kept, so that the number stays its own
        found = self._rebuilt(value, depth - 1)
        self._seen[id(value)] = (value, found)
        return found

    def _rebuilt(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            inside = {k: self(v, depth) for k, v in value.items()}
            if all(inside[k] is v for k, v in value.items()):
                return value
            again = copy.copy(value)
            again.update(inside)
            return again
        if isinstance(value, list | tuple | set | frozenset):
            items = [self(v, depth) for v in value]
            if all(a is b for a, b in zip(items, value, strict=True)):
                return value
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, types.MethodType):
            owner = self(value.__self__, depth)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if isinstance(value, functools.partial):
            parts = self((value.func, value.args, value.keywords), depth)
            return (
                value
                if parts[0] is value.func and parts[1] is value.args and parts[2] is value.keywords
                else (functools.partial(parts[0], *parts[1], **parts[2]))
            )
        if isinstance(value, types.FunctionType):
            return self._function(value, depth)
        if isinstance(value, weakref.ReferenceType) or type(value).__module__.partition(".")[0] in (
            "torch",
            "builtins",
        ):
            return value
        return self._object(value, depth)

    def _function(self, function: types.FunctionType, depth: int) -> Any:
        """A function of the user's that closes over the tree, on cells of its own."""
        cells = function.__closure__ or ()
        held = [cell.cell_contents if _filled(cell) else None for cell in cells]
        swapped = [self(v, depth) for v in held]
        defaults = self(function.__defaults__, depth)
        if all(a is b for a, b in zip(held, swapped, strict=True)) and defaults is function.__defaults__:
            return function
        closure = tuple(
            types.CellType(new) if new is not old else cell for cell, old, new in zip(cells, held, swapped, strict=True)
        )
        again = types.FunctionType(function.__code__, function.__globals__, function.__name__, defaults, closure)
        again.__kwdefaults__ = function.__kwdefaults__
        again.__dict__.update(function.__dict__)
        return again

    def _object(self, value: Any, depth: int) -> Any:
        """An object of the user's own class that holds a part of the tree."""
        fields = getattr(value, "__dict__", None)
        if not isinstance(fields, dict) or isinstance(value, types.ModuleType):
            return value
        inside = {k: self(v, depth) for k, v in fields.items()}
        if all(inside[k] is v for k, v in fields.items()):
            return value
        again = copy.copy(value)
        again.__dict__.update(inside)
        return again


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 (an empty cell raises)
    except ValueError:
        return False
    return True


def _uncompiled(module: nn.Module) -> nn.Module:
    """The module behind ``torch.compile``, whose compiled code cannot be differentiated twice."""
    inner = getattr(module, "_orig_mod", None) if type(module).__name__ == "OptimizedModule" else None
    return module if inner is None else inner


def _refuse(part: nn.Module) -> None:
    kind = type(part).__name__
    if isinstance(part, torch.jit.ScriptModule):
        raise TypeError(f"module: got a {kind} of TorchScript, expected Python code; pass the module that was scripted")
    if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise TypeError(f"module: got a {kind}, expected a module on one device; pass its .module")
    if any(p is not None and nn.parameter.is_lazy(p) for p in part._parameters.values()):
        raise TypeError(f"module: got a {kind} with parameters of unknown shape; call it once with an input first")

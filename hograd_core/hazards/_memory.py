"""Functions that can only do again what they did before, so that they need not be looked through at every call.

What a function runs is decided by its code, by what it refers to, and by what it learns of values as it runs. Code and
references make up its :func:`sketch`: where all of them are plain (code, numbers, texts, tensors by their kind, torch
itself) and no value was looked at, the same sketch means the same operations. Whatever else a function refers to, a
module or any object with a state, has no sketch, and is looked through at every call.
"""

from __future__ import annotations

import builtins
import dis
import functools
import math
from collections.abc import Callable, Hashable, Sequence
from types import BuiltinFunctionType, CodeType, FunctionType, MethodDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from hograd_core.hazards._modes import ConstantUnderNoGrad, in_custom_function

_DEEPEST = 6
_LONGEST = 64
_STATEFUL = {
    "backends", "get_default_dtype", "get_default_device", "get_rng_state", "initial_seed", "is_autocast_enabled",
    "globals", "locals", "vars", "eval", "exec", "open", "input", "__import__", "next",
}  # fmt: skip
"""Names by which a function could see what no sketch holds."""


class _Unknown(Exception):  # noqa: N818 (no error: an answer)
    """A function refers to something that may change unseen."""


def sketch(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Hashable | None:
    """What decides which operations ``function`` runs, but for values; None where that cannot be told."""
    code = _code(function.__code__) if type(function) is FunctionType else None
    if code is not None and code.in_vain:
        return None
    try:
        own = _of(function, 0)
    except (_Unknown, ValueError):  # ValueError: a variable of the closure has no value yet
        if code is not None:
            code.in_vain = True
        return None
    try:
        return own, *[_of(argument, 0) for argument in arguments]
    except _Unknown:
        return None


def _of(value: Any, depth: int) -> Hashable:
    if depth > _DEEPEST:
        raise _Unknown
    kind = type(value)
    if kind is Tensor or kind is Parameter:
        return value.shape, value.dtype, value.device, value.requires_grad
    if kind in _VALUES:
        return kind, value
    if kind is FunctionType:
        return _of_function(value, depth + 1)
    if kind is tuple or kind is list:
        if len(value) > _LONGEST:
            raise _Unknown
        return kind, *[_of(item, depth + 1) for item in value]
    if kind is ModuleType:
        if value is math or value.__name__.partition(".")[0] == "torch":
            return str(value.__name__)
    elif kind is functools.partial:
        return _of(value.func, depth + 1), _of(value.args, depth + 1), _of([*value.keywords.items()], depth + 1)
    elif kind is MethodDescriptorType or (kind is BuiltinFunctionType and _of_torch(value)):
        return id(value)  # these live as long as torch does
    raise _Unknown


_VALUES = {
    int, float, complex, bool, str, bytes, type(None), type(...), torch.dtype, torch.device, torch.Size,
}  # fmt: skip


def _of_torch(function: Any) -> bool:
    owner = function.__self__
    return owner is math or owner is builtins or (isinstance(owner, type) and owner.__module__.startswith("torch"))


def _of_function(function: FunctionType, depth: int) -> Hashable:
    if (function.__module__ or "").partition(".")[0] == "torch":
        if function.__closure__ is None:
            return _code(function.__code__)
        raise _Unknown
    code = _code(function.__code__)
    if not code.known:
        raise _Unknown
    parts: list[Any] = [cell.cell_contents for cell in function.__closure__ or ()]
    if code.names:
        outside = function.__globals__
        parts += [outside[name] for name in code.names if name in outside]
    parts += function.__defaults__ or ()
    parts += (function.__kwdefaults__ or {}).items()
    return code, *[_of(part, depth) for part in parts]


class _Code:
    """What there is to know of code; stands for it in sketches, since it is compared by identity, which is quick.

    Attributes:
        names: the global names that it refers to, that of functions within it too.
        known: whether these are all it can see.
        in_vain: whether its functions had no sketch: to find that out at each call would cost as much as to look.
    """

    __slots__ = ("code", "in_vain", "known", "names")

    def __init__(self, code: CodeType) -> None:
        self.code = code  # held, so that its id stays its own
        self.in_vain = False
        names: dict[str, None] = {}
        self.names: tuple[str, ...] = ()
        self.known: bool = _STATEFUL.isdisjoint(code.co_names)
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                names[instruction.argval] = None
            elif instruction.opname == "IMPORT_NAME":
                self.known = False
        for inner in (_code(constant) for constant in code.co_consts if isinstance(constant, CodeType)):
            names.update(dict.fromkeys(inner.names))
            self.known = self.known and inner.known
        self.names = tuple(names)


_CODES: dict[int, _Code] = {}
_MOST_CODES = 4096


def _code(code: CodeType) -> _Code:
    found = _CODES.get(id(code))  # by identity: the hash of code is that of all it holds, and is not kept
    if found is None:
        if len(_CODES) >= _MOST_CODES:
            _CODES.clear()
        found = _CODES[id(code)] = _Code(code)
    return found


_METADATA = {
    torch.is_tensor, torch.numel, torch.is_floating_point, torch.is_complex,
    *(getattr(Tensor, name) for name in (
        "size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "is_floating_point", "is_complex",
        "element_size", "__len__",
    )),
    *(getattr(Tensor, name).__get__ for name in (
        "shape", "dtype", "device", "ndim", "is_cuda", "is_cpu", "layout", "requires_grad",
    )),
}  # fmt: skip
"""What tells of a tensor's kind only, which the sketch holds."""
_BY_VALUE = ("nonzero", "argwhere", "unique", "masked_select", "where", "repeat_interleave", "bincount", "attention")
"""Parts of the names of what makes shapes out of values, or chooses its formula by settings of torch."""


class Observing(ConstantUnderNoGrad):
    """Notes whether f could run otherwise next time, or computes under no_grad.

    Attributes:
        plain: neither was seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plain = True

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer one call of torch's public functions."""
        result = super().__torch_function__(func, types, args, kwargs)
        if self.plain and func not in _METADATA:
            name = getattr(func, "__name__", "")
            self.plain = (
                _only_tensors(result)
                and (torch.is_grad_enabled() or func is Tensor.detach or in_custom_function())
                and not any(part in name for part in _BY_VALUE)
                and not (name == "__getitem__" and _masked(args[1]))
            )
        return result


def _only_tensors(result: Any) -> bool:
    if isinstance(result, tuple | list):
        return all(map(_only_tensors, result))
    return result is None or isinstance(result, Tensor)


def _masked(index: Any) -> bool:
    if isinstance(index, tuple | list):
        return any(map(_masked, index))
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)

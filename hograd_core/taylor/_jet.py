"""A tensor that carries a truncated power series through any PyTorch code, one ATen operation at a time.

A :class:`Jet` looks like its value at t = 0 (shape, dtype, device). Every ATen operation that touches one arrives
here and is answered by a rule of the table; composite operations (linear, layer_norm, einsum, attention) have been
taken apart by PyTorch before they arrive. An operation without a rule is taken apart by PyTorch's decomposition
table; where that has none, :class:`UnsupportedError` names it. Nothing falls back to a silent approximation.

Rules run with autograd back on (PyTorch's re-entrant dispatch), so coefficients can be differentiated further.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import enable_reentrant_dispatch
from torch.utils._mode_utils import no_dispatch

from hograd_core._unsupported import UnsupportedError
from hograd_core.taylor._collapsed import Weights, Wide, over_directions
from hograd_core.taylor._series import Series


class MissingRuleError(UnsupportedError):
    """f uses an operation that Taylor propagation does not know.

    Attributes:
        reason: which operation, and what can be done.
    """

    def __init__(self, operation: Any, remedy: str) -> None:
        self.reason = f"no Taylor rule for {operation} ({_call_site()}): {remedy}"
        RuntimeError.__init__(self, f"taylor: {self.reason}")


_INSIDE = tuple(os.path.dirname(path) + os.sep for path in (torch.__file__, os.path.dirname(__file__)))


def _call_site() -> str:
    """Where f called the operation that is being answered, as the stack shows it."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "propagate" and code.co_filename.startswith(_INSIDE):
            break
        if not code.co_filename.startswith(_INSIDE) and not code.co_filename.startswith("<"):
            return f"reached at {os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "reached in the gradient of f"


aten = torch.ops.aten
Rule = Callable[..., Any]
Declared = TypeVar("Declared", bound=Rule)
RULES: dict[Any, Rule] = {}
# Functions of f's own code that are answered by a composition, whose gradient is right on series too.
REWRITTEN: dict[Any, Rule] = {}

_LEVELS = itertools.count(1)


def rule(*operations: Any) -> Callable[[Declared], Declared]:
    """Declare the rule of some ATen operations (all their overloads).

    A rule receives the operation's arguments with every jet replaced by its :class:`Series`, and returns
    a Series, a plain tensor (a constant), or a tuple or list of these.
    """

    def declare(function: Declared) -> Declared:
        for operation in operations:
            if operation in RULES:
                raise ValueError(f"rule: {operation} is declared twice")
            RULES[operation] = function
        return function

    return declare


class Jet(Tensor):
    """A power series that passes for a tensor. Made by the driver only.

    Attributes:
        coefficients: of t⁰, t¹, …; None: structurally zero.
        level: which driver call made it; a jet of an outer call is a constant to an inner one.
        aliased: shares memory with another jet in the user's eyes, so may not be written in place.
        recorded: whether autograd records the coefficients: the caller's grad mode, not that at an operation,
            since the forward of a torch.autograd.Function runs with it off.
        weights: of directions, where coefficients between the value and the highest are those of several of them.
        packing: what sees each operation before and after it is answered; None: nothing does.
    """

    coefficients: list[Any]
    level: int
    aliased: bool
    recorded: bool
    weights: Weights | None
    packing: Any

    @staticmethod
    def __new__(cls, series: Series, level: int, recorded: bool, weights: Weights | None = None) -> Jet:
        """Wrap a series; coefficients are broadcast and converted to the value's shape and dtype."""
        primal = series.primal
        made: Jet = torch.Tensor._make_wrapper_subclass(
            cls, primal.shape, strides=primal.stride(), dtype=primal.dtype, device=primal.device, requires_grad=False
        )
        made.coefficients = _uniform(series)
        made.level = level
        made.aliased = False
        made.recorded = recorded
        made.weights = weights
        made.packing = None
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """Value and degree; never the wrapped storage, which does not exist."""
        return f"Jet(degree={len(self.coefficients) - 1}, primal={self.coefficients[0]})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Tell a detach in f's own code, a constant, from those by which autograd keeps tensors for backward."""
        if func in _DETACHES:
            return _detached(args[0])
        with torch._C.DisableTorchFunctionSubclass():
            rewritten = REWRITTEN.get(func)
            if rewritten is not None:
                return rewritten(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer one ATen operation by its rule."""
        with enable_reentrant_dispatch():
            return _answer(func, args, kwargs or {})


def _uniform(series: Series) -> list[Any]:
    primal = series.primal
    shape, dtype = primal.shape, primal.dtype
    out: list[Any] = [primal]
    c: Any
    for c in series.c[1:]:
        if isinstance(c, Wide):
            if c.each.shape[1:] != shape or c.each.dtype != dtype:
                c = Wide(torch.vmap(lambda each: each.to(dtype).expand(shape))(c.each))
        elif c is not None:
            if c.dtype != dtype:
                c = c.to(dtype)
            if c.shape != shape:
                c = c.expand(shape)
        out.append(c)
    return out


_DETACHES = {Tensor.detach, torch.detach, Tensor.data.__get__}  # type: ignore[attr-defined]


def _detached(jet: Jet) -> Tensor:
    primal: Tensor = jet.coefficients[0]
    return primal.detach()


def new_level() -> int:
    """A number above those of all calls that are under way."""
    return next(_LEVELS)


def _jets(values: Sequence[Any]) -> list[Jet]:
    found: list[Jet] = []
    for value in values:
        kind = type(value)
        if kind is Jet:
            found.append(value)
        elif kind is list or kind is tuple:
            found += _jets(value)
    return found


def jets_of(args: Sequence[Any], kwargs: dict[str, Any]) -> list[Jet]:
    """The jets among the arguments of an operation, in order."""
    return _jets(args) + _jets(tuple(kwargs.values())) if kwargs else _jets(args)


def replaced(value: Any, others: Iterator[Any]) -> Any:
    """An argument with others in the place of its jets."""
    kind = type(value)
    if kind is Jet:
        return next(others)
    return kind([replaced(item, others) for item in value]) if kind is list or kind is tuple else value


def _opened(value: Any, level: int) -> Any:
    kind = type(value)
    if kind is Jet:
        return Series(value.coefficients) if value.level == level else value
    if kind is list or kind is tuple:
        return kind([_opened(item, level) for item in value])
    return value


def _closed(value: Any, like: Jet, aliased: bool) -> Any:
    if isinstance(value, Series):
        jet = Jet(value, like.level, like.recorded, like.weights)
        jet.aliased, jet.packing = aliased, like.packing
        return jet
    if isinstance(value, list | tuple):
        return type(value)(_closed(item, like, aliased) for item in value)
    return value


@functools.cache
def _writes(func: Any) -> tuple[bool, Any | None]:
    """Whether an operation writes to an argument, and its pure counterpart where that is the first one."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
    if not any(written):
        return False, None
    name = func.overloadpacket.__name__
    if written[0] and not any(written[1:]) and name.endswith("_"):
        return True, getattr(aten, name[:-1], None)
    return True, None


@functools.cache
def _is_view(func: Any) -> bool:
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def _answer(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    found = jets_of(args, kwargs)
    inner = found[0] if len(found) == 1 else max(found, key=_level_of)
    if torch.is_grad_enabled() == inner.recorded:
        return _ruled(func, args, kwargs, found, inner)
    with torch.set_grad_enabled(inner.recorded):
        return _ruled(func, args, kwargs, found, inner)


def _level_of(jet: Jet) -> int:
    return jet.level


def _ruled(func: Any, args: Sequence[Any], kwargs: dict[str, Any], found: list[Jet], inner: Jet) -> Any:
    writes, pure = _writes(func)
    if writes:
        return _write(func, pure, args, kwargs, inner)
    entry = RULES.get(func.overloadpacket)
    if entry is None:
        return _guarded(func, args, kwargs, lambda: _taken_apart(func, args, kwargs))
    view = _is_view(func)
    if view:
        for jet in found:
            jet.aliased = True
    answer, like = _ruled_by(entry, func, args, kwargs, inner)
    result = _closed(answer, like, view)
    if inner.packing is not None:
        inner.packing.after(func, args, kwargs, result)
    return result


def _ruled_by(
    entry: Rule, func: Any, args: Sequence[Any], kwargs: dict[str, Any], inner: Jet
) -> tuple[Any, Jet]:  # fmt: skip
    """What a rule answers to the series of the innermost call, and a jet that its results are like."""
    if inner.packing is not None:
        args, kwargs = inner.packing.before(func, args, kwargs)
        inner = jets_of(args, kwargs)[0]
    level, weights = inner.level, inner.weights
    opened = {k: _opened(v, level) for k, v in kwargs.items()}
    given = [_opened(a, level) for a in args]
    if weights is None:
        return _guarded(func, args, kwargs, lambda: entry(*given, **opened)), inner
    return _guarded(func, args, kwargs, lambda: over_directions(entry, given, opened, weights)), inner


def _guarded(func: Any, args: Sequence[Any], kwargs: dict[str, Any], answer: Callable[[], Any]) -> Any:
    """The answer; where it fails though the values alone do not, the operation is one that the rule does not know.

    What fails on the values too is f's own error, and is raised as PyTorch words it.
    """
    try:
        return answer()
    except (UnsupportedError, torch.OutOfMemoryError):
        raise
    except (AttributeError, ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if not isinstance(error, NotImplementedError):
            func(*_values(args), **{k: _values(v) for k, v in kwargs.items()})
        reason = (str(error).strip().splitlines() or [""])[0]
        raise MissingRuleError(
            func, f"its rule does not cover these arguments ({type(error).__name__}: {reason}); use another method"
        ) from error


def _values(value: Any) -> Any:
    kind = type(value)
    if kind is Jet:
        return value.coefficients[0].clone()
    return kind([_values(item) for item in value]) if kind is list or kind is tuple else value


def _write(func: Any, pure: Any | None, args: Sequence[Any], kwargs: dict[str, Any], inner: Jet) -> Jet:
    """An in-place operation, answered by its pure form when no other jet can see the memory written."""
    target = args[0] if args else None
    entry = None if pure is None else RULES.get(pure)
    shape_only = torch.Tag.inplace_view in func.tags
    if (
        entry is None
        or not isinstance(target, Jet)
        or target.level != inner.level
        or (target.aliased and not shape_only)
    ):
        raise MissingRuleError(
            func,
            "not in place, on a view or a plain tensor; write it out of place (cat, stack, where, not item assignment)",
        )
    plain = func if shape_only else getattr(pure, func._overloadname, func)
    result, like = _ruled_by(entry, plain, args, kwargs, inner)
    if not isinstance(result, Series):
        result = Series([result, *[None] * (len(target.coefficients) - 1)])
    target.coefficients, target.weights = _uniform(result), like.weights
    if inner.packing is not None:
        inner.packing.after(plain, args, kwargs, target)
    if shape_only:
        # squeeze_, t_ and the like: the wrapper's own shape follows.
        with no_dispatch():
            func(*args, **kwargs)
    return target


@functools.cache
def _decomposition(func: Any) -> Rule | None:
    from torch._decomp import decomposition_table

    table: dict[Any, Rule] = decomposition_table
    return table.get(func)


def _taken_apart(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    # The table first: it is pure, where PyTorch's own composites may write to a plain tensor in between.
    decomposition = _decomposition(func)
    if decomposition is not None:
        return decomposition(*args, **kwargs)
    result = func.decompose(*args, **kwargs)
    if result is NotImplemented:
        raise MissingRuleError(
            func, "nor a decomposition; use another method, or declare a rule with hograd_core.taylor.rule"
        )
    return result


def coverage() -> list[str]:
    """Names of the ATen operations that have a rule of their own, sorted."""
    return sorted(operation.__name__ for operation in RULES)

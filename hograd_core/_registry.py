"""Operators (WHAT is computed) and methods (HOW), as records that the suite can query.

An operator is declared by decorating its argument guard; a method by decorating a kernel:

    @operator(result="x", default="double_backward", aliases={"hvp": 2})
    def derivative_vector_product(f, x, v, order=2): ...   # checks; returns what methods receive

    @method(derivative_vector_product, "double_backward", mode="reverse over reverse", source="...")
    def double_backward(f, x, v, *, order): ...

Nothing else is edited: `hograd list`, conformance, sweeps, docs and report read these records.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from hograd_core._checks import check_order
from hograd_core._entrance import entered
from hograd_core._unsupported import UnsupportedError, pytorch_limit


@dataclass(frozen=True, eq=False)
class Method:
    """How an operator is computed.

    Attributes:
        operator: name of the operator.
        name: name of the method, unique within its operator.
        function: the kernel; receives what the operator's guard returned, and keyword options.
        mode: the differentiation modes in words, outermost first ("forward over reverse").
        source: author, year and equation or section; or the PyTorch API it wraps.
        min_order, max_order: derivative orders it supports (max None: unbounded).
        exact: False where the result carries truncation or sampling error by design.
        functorch: True where it runs under torch.func transforms (saved-tensor hooks are barred there).
        tolerance: relative error allowed against float64 truth, or None for the suite's rule by
            dtype and order; a function (eps, order) -> float where an approximation sets the scale.
    """

    operator: str
    name: str
    function: Callable[..., Any]
    mode: str
    source: str
    min_order: int = 1
    max_order: int | None = None
    exact: bool = True
    functorch: bool = False
    tolerance: Callable[[float, int], float] | None = None

    @property
    def options(self) -> tuple[str, ...]:
        """Keyword options of the kernel beyond the order (``chunk_size``, ...)."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "order")

    def supports(self, order: int) -> bool:
        """Whether this method is defined at that derivative order."""
        return order >= self.min_order and (self.max_order is None or order <= self.max_order)


@dataclass(eq=False)
class Operator:
    """What is computed; call it to compute it: ``operator(f, x, v, order, method="...")``.

    Attributes:
        name: canonical name.
        guard: checks the arguments and returns those that methods receive.
        result: shape of the result in words ("x", "x * order", "scalar", ...).
        default: name of the method used when none is asked for.
        aliases: names for fixed orders, e.g. {"hvp": 2}.
        order: the derivative order of an operator that takes no ``order`` argument, else None.
        methods: its methods by name, in order of declaration.
    """

    name: str
    guard: Callable[..., tuple[Any, ...]]
    result: str
    default: str
    aliases: dict[str, int]
    order: int | None
    methods: dict[str, Method] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the required arguments; the suite finds each on the problem's instance."""
        parameters = inspect.signature(self.guard).parameters.values()
        return tuple(p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)

    @property
    def takes_order(self) -> bool:
        """Whether the operator is a family over derivative orders."""
        return self.order is None

    def method(self, name: str) -> Method:
        """The method of that name.

        Raises:
            ValueError: no such method; the message lists those that exist.
        """
        try:
            return self.methods[name]
        except KeyError:
            raise ValueError(
                f"method: got {name!r}, expected one of {', '.join(sorted(self.methods))} for {self.name}"
            ) from None

    def __call__(self, *arguments: Any, method: str | None = None, **keywords: Any) -> Any:
        """Compute the operator.

        Raises:
            TypeError, ValueError: an argument is wrong; the message names it.
            UnsupportedError: PyTorch itself cannot do this; the message carries its reason.
        """
        chosen = self.method(self.default if method is None else method)
        guard_signature = inspect_signature(self.guard)
        options = {k: keywords.pop(k) for k in list(keywords) if k not in guard_signature.parameters}
        unknown = sorted(set(options) - set(chosen.options))
        if unknown:
            allowed = ", ".join(chosen.options) or "none"
            raise TypeError(f"{unknown[0]}: not an option of {self.name}[{chosen.name}]; its options: {allowed}")
        bound = guard_signature.bind(*arguments, **keywords)
        bound.apply_defaults()
        if self.takes_order:
            order = check_order(bound.arguments["order"])
            if not chosen.supports(order):
                top = "" if chosen.max_order is None else f" to {chosen.max_order}"
                raise ValueError(
                    f"order: got {order}, but {self.name}[{chosen.name}] is defined for orders "
                    f"from {chosen.min_order}{top}; choose another method"
                )
            options["order"] = order
        _load_forward_mode()
        try:
            with entered():
                checked = self.guard(*bound.args, **bound.kwargs)
                return chosen.function(*checked, **options)
        except UnsupportedError:
            raise
        except (RuntimeError, AssertionError) as error:
            reason = pytorch_limit(error)
            if reason is None:
                raise
            raise UnsupportedError(f"{self.name}[{chosen.name}]", reason) from error


@functools.cache
def _load_forward_mode() -> None:
    """Let PyTorch load its forward-mode decompositions, once a process.

    torch 2.13 scripts them with its own deprecated torch.jit.script at the first jvp; under ``-W error`` the
    warning would surface as a failure of our caller's code.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))


@functools.cache
def inspect_signature(function: Callable[..., Any]) -> inspect.Signature:
    """Signature of a guard, cached: it is read at every call."""
    return inspect.signature(function)


_OPERATORS: dict[str, Operator] = {}


def operator(
    *, result: str, default: str, aliases: dict[str, int] | None = None, order: int | None = None
) -> Callable[[Callable[..., tuple[Any, ...]]], Operator]:
    """Declare an operator by its argument guard; see :class:`Operator` for the arguments."""

    def declare(guard: Callable[..., tuple[Any, ...]]) -> Operator:
        name = guard.__name__
        if name in _OPERATORS:
            raise ValueError(f"operator: {name!r} is declared twice")
        if (order is None) != ("order" in inspect.signature(guard).parameters):
            raise ValueError(f"operator: {name!r} must either take an `order` argument or declare order=")
        record = Operator(name, guard, result, default, dict(aliases or {}), order)
        functools.update_wrapper(record, guard)
        _OPERATORS[name] = record
        return record

    return declare


def method(
    record: Operator, name: str, *, mode: str, source: str, **capabilities: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a kernel as a method of an operator; see :class:`Method` for the capabilities."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        if name in record.methods:
            raise ValueError(f"method: {record.name}[{name}] is declared twice")
        record.methods[name] = Method(record.name, name, function, mode, source, **capabilities)
        return function

    return declare


def operators() -> dict[str, Operator]:
    """All declared operators by canonical name."""
    return dict(_OPERATORS)


def resolve(name: str) -> tuple[Operator, int | None]:
    """The operator called ``name``, and the order that an alias fixes (None for a canonical name).

    Raises:
        ValueError: no such operator; the message lists those that exist.
    """
    if name in _OPERATORS:
        return _OPERATORS[name], None
    for record in _OPERATORS.values():
        if name in record.aliases:
            return record, record.aliases[name]
    known = sorted(_OPERATORS) + sorted(a for r in _OPERATORS.values() for a in r.aliases)
    raise ValueError(f"operator: got {name!r}, expected one of {', '.join(known)}")

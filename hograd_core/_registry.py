"""Operators (WHAT is computed) and methods (HOW), as records that the suite can query.

An operator is declared by decorating its argument guard; a method by decorating a kernel:

    @operator(result="x", default="double_backward")       # checks, and hands on what methods receive
    def derivative_vector_product(f: Function[T], x: T, v: T, order: int = 2, **how: Unpack[How]) -> T:
        return to_method(scalar_function(f), check_point(x), check_direction(v, x))

    @alias(derivative_vector_product, order=2)
    def hvp(f: Function[T], x: T, v: T, **how: Unpack[How]) -> T: ...

    @method(derivative_vector_product, "double_backward", mode="reverse over reverse", source="...")
    def double_backward(f, x, v, *, order): ...

The guard's signature is the operator's, to type checkers and to ``inspect``. Nothing else is edited: `hograd list`,
conformance, sweeps, docs and report read these records.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, cast

from typing_extensions import ParamSpec, TypeVar

from hograd_core import auto
from hograd_core._call import computed
from hograd_core._entrance import unguarded
from hograd_core.arguments import taking

P = ParamSpec("P", default=...)  # a bare Operator is one of any arguments and result
R = TypeVar("R", default=Any)
Taken = ParamSpec("Taken")
Given = TypeVar("Given")

# The keyword arguments of every call; ``verify`` where the operator has a second definition to be held against.
_ALWAYS = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        ("method", None, "str | None"), ("probe", False, "bool"),
        ("repair", False, "bool"), ("verify", False, "bool"), ("strict", False, "bool"),
        ("args", (), "tuple[Any, ...]"), ("in_dims", None, "Any"), ("flat", None, "bool | None"),
        ("create_graph", False, "bool"), ("memory", None, "int | str | None"),
        ("parameters", None, "str | Sequence[str] | None"),
    )
)  # fmt: skip


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
        in_parts: True where ``chunk_size`` bounds what it holds and goes through ``arguments.slices``, so that a limit
            of memory can choose it.
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
    in_parts: bool = False
    tolerance: Callable[[float, int], float] | None = None
    amounts_to: tuple[tuple[str, int], ...] = ()

    def amounts(self, order: int | None) -> tuple[tuple[str, int], ...]:
        """The methods of the derivative operators, with orders, whose formulas a result at ``order`` rests on."""
        return ((self.name, order),) if order is not None and not self.amounts_to else self.amounts_to

    @property
    def through_forward(self) -> bool:
        """Whether forward or Taylor mode goes through f; forward mode that is emulated is reverse mode."""
        return "forward" in self.mode.replace("forward emulated", "") or "Taylor" in self.mode

    @functools.cached_property
    def options(self) -> tuple[str, ...]:
        """Keyword options of the kernel beyond the order (``chunk_size``, ...)."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "order")

    def supports(self, order: int) -> bool:
        """Whether this method is defined at that derivative order."""
        return order >= self.min_order and (self.max_order is None or order <= self.max_order)


@dataclass(eq=False)
class Operator(Generic[P, R]):
    """What is computed; call it to compute it: ``operator(f, x, v, order, method="...")``.

    ``P`` and ``R`` are what a call takes and returns; ``inspect.signature`` shows them with the options of all methods.

    Attributes:
        name: canonical name.
        guard: checks the arguments and hands on, :func:`to_method`, those that methods receive.
        result: shape of the result in words ("x", "x * order", "scalar", ...).
        default: name of the method used when none is asked for.
        order: the derivative order of an operator that takes no ``order`` argument, else None.
        verification: (where, result, arguments, order) -> None, raising where the result is not the derivative by a
            definition that shares nothing with the methods; None: ``verify=True`` is refused.
        linear: whether the result of a sum of functions is the sum of results.
        listed: whether it is among :func:`operators`; others are found by name only.
        methods: its methods by name, in order of declaration.
        aliases: names for fixed orders, e.g. {"hvp": 2}, and in ``functions`` what they call.
    """

    name: str
    guard: Callable[P, Any]
    result: str
    default: str
    order: int | None
    verification: Callable[[str, Any, tuple[Any, ...], int | None], None] | None = None
    listed: bool = True
    linear: bool = False
    methods: dict[str, Method] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    functions: list[Callable[..., Any]] = field(default_factory=list)
    __signature__: inspect.Signature = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.taking = taking(self.inputs)
        self.sign()

    def sign(self) -> None:
        """Have ``inspect.signature`` show what calls of the operator and of its aliases take and return."""
        always = [p for p in _ALWAYS if p.name != "verify" or self.verification]
        kernels = [inspect.signature(m.function).parameters for m in self.methods.values()]
        options = {p.name: p for k in kernels for p in k.values() if p.kind is p.KEYWORD_ONLY and p.name != "order"}
        each: list[tuple[Any, Callable[..., Any]]] = [(self, self.guard), *((f, f) for f in self.functions)]
        for shown, function in each:
            own = arguments_of(function)
            shown.__signature__ = own.replace(parameters=[*own.parameters.values(), *always, *options.values()])

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the required arguments; the suite finds each on the problem's instance."""
        return tuple(p.name for p in arguments_of(self.guard).parameters.values() if p.default is p.empty)

    @property
    def takes_order(self) -> bool:
        """Whether the operator is a family over derivative orders."""
        return self.order is None

    @property
    def of_a_function(self) -> bool:
        """Whether it is of a function of one tensor, and perhaps a direction: of f and x, or of u and points."""
        first, *rest = arguments_of(self.guard).parameters
        return (first, rest[:1]) in (("f", ["x"]), ("u", ["points"])) and set(rest[1:]) <= {"v", "order"}

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

    @property
    def verifiable(self) -> list[str]:
        """Names of the operators that ``verify`` can be asked of."""
        return sorted(o.name for o in _OPERATORS.values() if o.verification)

    def unguarded(self, *arguments: P.args, **keywords: P.kwargs) -> R:
        """The method itself, as it is measured: without looking for hazards or at the result, which may be wrong."""
        with unguarded():
            return self(*arguments, **keywords)

    def __call__(self, *arguments: P.args, **keywords: P.kwargs) -> R:
        """Compute the operator.

        Args:
            *arguments: those of the guard, by position or by name.
            **keywords: a method and its options: :class:`hograd_core._how.How`.

        Raises:
            TypeError, ValueError: an argument is wrong; the message names it.
            UnsupportedError: PyTorch itself cannot do this, or does it wrongly; the message carries the reason.
            VerificationError: with ``verify=True``, the result is not the derivative.
            FloatingPointError: with ``strict=True``, the result is not finite.
        """
        how = cast("dict[str, Any]", keywords)
        result: R = (auto.compute if auto.decides(self, how) else computed)(self, arguments, how)
        return result

    def explain(self, *arguments: P.args, **keywords: P.kwargs) -> auto.Choice:
        """What a call with ``method="auto"`` and these arguments would do, as text and as data."""
        return auto.chosen(self, arguments, {"method": "auto", **cast("dict[str, Any]", keywords)})

    @property
    def arguments(self) -> inspect.Signature:
        """Signature of the operator's own arguments."""
        return arguments_of(self.guard)


@functools.cache
def arguments_of(function: Callable[..., Any]) -> inspect.Signature:
    """Signature of a guard without ``**how``, cached: it is read at every call."""
    signature = inspect.signature(function)
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD])


_OPERATORS: dict[str, Operator] = {}


def to_method(*arguments: Any) -> Given:  # type: ignore[type-var]
    """End a guard with what methods receive, under the type of what the operator returns."""
    return cast("Given", arguments)


def operator(
    *,
    result: str,
    default: str,
    order: int | None = None,
    verification: Callable[[str, Any, tuple[Any, ...], int | None], None] | None = None,
    listed: bool = True,
    linear: bool = False,
) -> Callable[[Callable[Taken, Given]], Operator[Taken, Given]]:
    """Declare an operator by its argument guard; see :class:`Operator` for the arguments."""

    def declare(guard: Callable[Taken, Given]) -> Operator[Taken, Given]:
        name = guard.__name__
        if name in _OPERATORS:
            raise ValueError(f"operator: {name!r} is declared twice")
        if (order is None) != ("order" in inspect.signature(guard).parameters):
            raise ValueError(f"operator: {name!r} must either take an `order` argument or declare order=")
        record = Operator(name, guard, result, default, order, verification, listed, linear)
        functools.update_wrapper(record, guard)
        _OPERATORS[name] = record
        return record

    return declare


def alias(record: Operator, *, order: int) -> Callable[[Callable[Taken, Given]], Callable[Taken, Given]]:
    """Declare a function of that name as the operator at one order."""

    def declare(function: Callable[Taken, Given]) -> Callable[Taken, Given]:
        record.aliases[function.__name__] = order
        record.functions.append(function)
        record.sign()
        return function

    return declare


def method(
    record: Operator, name: str, *, mode: str, source: str, **capabilities: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a kernel as a method of an operator; see :class:`Method` for the capabilities."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        if name in record.methods:
            raise ValueError(f"method: {record.name}[{name}] is declared twice")
        record.methods[name] = Method(record.name, name, function, mode, source, **capabilities)
        record.sign()
        return function

    return declare


def operators() -> dict[str, Operator]:
    """All listed operators by canonical name."""
    return {name: record for name, record in _OPERATORS.items() if record.listed}


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
    known = sorted(operators()) + sorted(a for r in _OPERATORS.values() for a in r.aliases)
    raise ValueError(f"operator: got {name!r}, expected one of {', '.join(known)}")


def explain(operator: str, *arguments: Any, **how: Any) -> auto.Choice:
    """Which methods ``method="auto"`` would try, in which order, and why; nothing is computed but a probe asked for.

    Args:
        operator: its name or an alias, ``"hessian"``.
        *arguments: of the call.
        **how: what else the call is given: ``memory``, ``probe``, ...; see :class:`hograd_core._how.How`.

    Returns:
        The choice: ``method``, ``candidates`` with reasons, ``source``; its text has a line a candidate.

    Raises:
        ValueError: no such operator.
    """
    record, order = resolve(operator)
    return record.explain(*arguments, **({"order": order} if order is not None else {}), **how)

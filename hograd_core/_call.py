"""A call of an operator: its keywords taken apart, then one method at a point, or at a batch of points."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hograd_core._checks import check_order, check_positive
from hograd_core._entrance import _STATE, entered, in_transform, keep, kept, released, repair, unwatched
from hograd_core._finite import check_finite_result, is_finite
from hograd_core._forward import jvp
from hograd_core._unsupported import UnsupportedError, pytorch_limit
from hograd_core.arguments import (
    ASKED,
    Arranged,
    Asked,
    Batch,
    Budget,
    Taking,
    WeightedSum,
    _tree,
    arranged,
    as_bytes,
    batch,
    check_fits,
    in_chunks,
    stacked,
    vectorised,
)
from hograd_core.hazards import Guard, guard


def computed(operator: Any, arguments: tuple[Any, ...], how: dict[str, Any]) -> Any:
    """The result of an operator by the method that is named, or by one that what else is asked for needs.

    Args:
        operator: its record.
        arguments: the operator's own, by position.
        how: those by name, and what :class:`hograd_core._how.How` says; used up.

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        UnsupportedError: PyTorch itself cannot do this, or does it wrongly.
    """
    name = how.pop("method", None)
    if how.pop("probe", False):
        raise TypeError(f'probe: got method={name!r}, expected "auto", which alone has something to try')
    if name == "auto":  # with in_dims
        name = None
    asked = None if ASKED.keys().isdisjoint(how) else Asked(**{key: how.pop(key) for key in ASKED if key in how})
    given = {key: how.pop(key, False) for key in ("repair", "verify", "strict")}
    signature = operator.arguments
    options = {key: how.pop(key) for key in list(how) if key not in signature.parameters}
    method = operator.method(_method_for(operator, asked) if name is None else name)
    chunk_size = options.pop("chunk_size", None) if asked and asked.in_dims is not None else None
    if not options.keys() <= set(method.options):
        allowed = ", ".join((*method.options, *given, *ASKED))
        unknown = min(options.keys() - set(method.options))
        raise TypeError(f"{unknown}: not an option of {operator.name}[{method.name}]; its options: {allowed}")
    if given["verify"] and operator.verification is None:
        able = ", ".join(operator.verifiable)
        raise TypeError(f"verify: {operator.name} has no second definition to hold it against; use it on {able}")
    bound = signature.bind(*arguments, **how)
    bound.apply_defaults()
    order = operator.order
    if operator.takes_order:
        order = options["order"] = check_order(bound.arguments["order"])
        if not method.supports(order):
            top = "" if method.max_order is None else f" to {method.max_order}"
            raise ValueError(
                f"order: got {order}, but {operator.name}[{method.name}] is defined for orders "
                f"from {method.min_order}{top}; choose another method"
            )
    _load_forward_mode()
    call = Call(operator, method, order, options, given["repair"], given["verify"], given["strict"])
    try:
        with entered():
            if asked is None and _is_plain(operator.taking, bound.arguments):
                return call.computed(bound.arguments)
            open_ = name is None and options.keys() <= {"order"}
            other = operator.methods[operator.default] if open_ else method
            return call.arranged(bound.arguments, asked or Asked(), chunk_size, other)
    except UnsupportedError:
        raise
    except (RuntimeError, AssertionError) as error:
        reason = pytorch_limit(error, reverse_over_forward="reverse over forward" in method.mode)
        if reason is None:
            raise
        others = [m.name for m in operator.methods.values() if m.functorch and not method.functorch and in_transform()]
        remedy = f"; inside torch.func use {' or '.join(others)}, or in_dims outside" if others else ""
        raise UnsupportedError(call.where, reason + remedy) from error


def _method_for(operator: Any, asked: Asked | None) -> str:
    """The method where none is named: one that can be vectorised, or computed in parts, where that is asked for."""
    default: str = operator.default
    if asked is not None and asked.in_dims is not None:
        return next((m.name for m in operator.methods.values() if m.functorch and m.exact), default)
    if asked is not None and asked.memory is not None:
        return next((m.name for m in operator.methods.values() if m.in_parts), default)
    return default


def _is_plain(roles: Taking, arguments: Mapping[str, Any]) -> bool:
    """Whether methods can take the arguments as they are."""
    if roles.function is None or roles.point is None:
        return not any(isinstance(arguments[name], Mapping) for name in roles.directions)
    return isinstance(arguments[roles.point], Tensor) and type(arguments[roles.function]) is not WeightedSum


@functools.cache
def _load_forward_mode() -> None:
    """Let PyTorch load its forward-mode decompositions, once a process.

    torch 2.13 scripts them with its own deprecated torch.jit.script at the first jvp; under ``-W error`` the
    warning would surface as a failure of our caller's code.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))


@functools.lru_cache(maxsize=1024)
def _guards(operator: Any, method: Any, order: int | None) -> Callable[[], Guard | None]:
    """What makes the guard of a call."""
    amounts = method.amounts(order) if operator.takes_order or method.amounts_to else ()
    return functools.partial(guard, f"{operator.name}[{method.name}]", amounts, constant=method.through_forward)


@functools.lru_cache(maxsize=1024)
def _usual(operator: Any, method: Any, order: int | None) -> Guard | None:
    """The guard of every call outside other derivatives that repairs nothing; None where each has its own."""
    made = _guards(operator, method, order)()
    return made if made is not None and made.reusable else None


@dataclass(slots=True)
class Call:
    """What is computed, and how.

    Attributes:
        operator, method: their records.
        order: the derivative's order. options: keyword options of the method, the order among them.
        repair, verify, strict: see :class:`hograd_core._how.How`.
        own_graph: whether ``create_graph`` was asked for outside all other derivatives.
        points: how many points the call is made at.
    """

    operator: Any
    method: Any
    order: int | None
    options: dict[str, Any]
    repair: bool
    verify: bool
    strict: bool
    own_graph: bool = False
    points: int = 1

    @property
    def where(self) -> str:
        """Operator and method, for messages."""
        return f"{self.operator.name}[{self.method.name}]"

    def computed(self, arguments: Mapping[str, Any], *, look: bool = True) -> Any:
        """The result at one point, of tensors as methods take them.

        Args:
            arguments: the operator's, by name.
            look: whether values may be looked at: not while they are vectorised.
        """
        if self.repair:
            repair()
        here = _STATE
        watch = None if here.unwatched else self._watch()
        if watch is not None:
            here.watch = watch
        checked = self.operator.guard(**arguments)
        if self.operator.result == "x * order":
            self._refuse_too_large(checked)
        result = released(self.method.function(*checked, **self.options))
        if look and (watch is not None or self.strict or self.verify):
            plain = type(result) is Tensor and result.is_cpu and not (self.verify or here.kept)
            if not (plain and is_finite(result)):
                self._look_at(self.where, result, checked)
        return result

    def _watch(self) -> Guard | None:
        """What looks at f in this call: mostly the same as in every other of this kind."""
        here = _STATE
        usual = None if here.enclosing or here.repairing else _usual(self.operator, self.method, self.order)
        return usual or _guards(self.operator, self.method, self.order)()

    def _refuse_too_large(self, checked: tuple[Any, ...]) -> None:
        """Raise before a derivative tensor is allocated that cannot fit."""
        point = getattr(checked[0], "point", None)
        point = checked[1] if point is None else point
        if self.options.get("out") is None:
            check_fits(
                self.where, self.points * point.numel() ** (self.order or 2) * point.element_size(), point.device,
                self.options.get("chunk_size"),
            )  # fmt: skip

    def _look_at(self, where: str, result: Any, checked: tuple[Any, ...]) -> None:
        """Whether a result is finite and, on request, whether it is the derivative."""
        if self.own_graph:
            keep(False)
        order = self.order if self.operator.order is None else None
        check_finite_result(where, result, checked, order, strict=self.strict)
        if self.verify:
            self.operator.verification(where, result, checked, self.order)
        if self.own_graph:
            keep()

    def arranged(self, arguments: Mapping[str, Any], asked: Asked, chunk_size: Any, other: Any) -> Any:
        """The result for arguments as people have them; see :mod:`hograd_core.arguments`.

        Args:
            arguments: the operator's, by name.
            asked: what else was asked for.
            chunk_size: points at a time, with ``in_dims``.
            other: the method that a batch goes by where this one cannot be vectorised.
        """
        roles = self.operator.taking
        self._refuse_meaningless(asked)
        if asked.create_graph and not kept():
            self.own_graph = True
            keep()
        budget = self._budget(arguments, asked, chunk_size)
        try:
            if asked.in_dims is None:
                if budget is not None:
                    self.options["chunk_size"] = budget
                if self.operator.linear and isinstance(arguments[roles.function], WeightedSum):
                    return self._of_terms(arguments, asked)
                here = self._one(arguments, asked)
                return here.shaped(self.computed(here.given), self.operator.result, self.order)
            if chunk_size is not None:
                chunk_size = check_positive(chunk_size, "chunk_size")
            if self.options.get("out") is not None:
                raise TypeError(
                    "out: got in_dims as well, whose results are joined anew; call it at each point instead"
                )
            batched = batch(arguments, roles, asked)
            self.points = batched.size
            result = self._of_batch(batched, budget or chunk_size, other)
            first = self._one(*batched.point(0))
            return first.shaped(result, self.operator.result, self.order, leading=1)
        finally:
            if budget is not None:
                budget.stop()

    def _of_terms(self, arguments: Mapping[str, Any], asked: Asked) -> Any:
        """The result for a sum of functions, one at a time."""
        if asked.memory is not None:
            raise TypeError("memory: f is over batches, and takes the memory of one; give smaller ones, or chunk_size")
        out = self.options.pop("out", None)
        name = self.operator.taking.function
        last: list[Arranged] = []

        def of_term(f: Any) -> Any:
            last[:] = [self._one({**arguments, name: f}, asked)]
            return self.computed(last[0].given)

        result = arguments[name].combined(of_term)
        if out is not None:
            if (out.shape, out.dtype, out.device) != (result.shape, result.dtype, result.device):
                wanted = f"{tuple(result.shape)} of {result.dtype} on {result.device}"
                raise ValueError(f"out: got {tuple(out.shape)} of {out.dtype} on {out.device}, expected {wanted}")
            result = out.copy_(result)
        return last[0].shaped(result, self.operator.result, self.order)

    def _refuse_meaningless(self, asked: Asked) -> None:
        name, roles = self.operator.name, self.operator.taking
        if asked.args and roles.function is None:
            raise TypeError(f"args: {name} is no operator of a function at a point; give its own arguments")
        if asked.parameters is not None and roles.module is None:
            raise TypeError(f"parameters: {name} takes no module; choose what x holds, args the rest")
        if asked.in_dims is not None and not roles.structured and not (roles.module and roles.directions):
            raise TypeError(f"in_dims: {name} takes a batch as it is, or nothing like one; leave in_dims out")

    def _budget(self, arguments: Mapping[str, Any], asked: Asked, chunk_size: Any) -> Budget | None:
        if asked.memory is None:
            return None
        if chunk_size is not None or self.options.get("chunk_size") is not None:
            raise TypeError("memory: got chunk_size as well, expected one of them: a limit of memory decides the chunk")
        if asked.in_dims is None and not self.method.in_parts:
            able = [m.name for m in self.operator.methods.values() if m.in_parts]
            instead = f"use one of {', '.join(able)}" if able else "leave it out"
            raise TypeError(f"memory: {self.where} computes nothing in parts, whose size could be chosen; {instead}")
        if kept():
            raise TypeError(
                "memory: a result that is differentiated further keeps the graphs of all chunks; leave it out"
            )
        tensors = [t for t in _tree.leaves(dict(arguments)) if isinstance(t, Tensor)]
        device = tensors[0].device if tensors else torch.device("cpu")
        return Budget(as_bytes(asked.memory, device), self.where)

    def _one(self, given: Mapping[str, Any], asked: Asked) -> Arranged:
        """The arguments of one point as methods take them."""
        found = arranged(given, self.operator.taking, asked)
        if found.packing is not None and (self.verify or "differences" in self.method.mode):
            found.packing.refuse_mixed("verify" if self.verify else "method")  # a step of differences has one precision
        return found

    def _of_batch(self, batched: Batch, chunk_size: Any, other: Any) -> Any:
        """Results at all points along a first axis: vectorised where method and f can be, else one by one."""
        if self.method.functorch:

            def one(given: Mapping[str, Any], asked: Asked) -> Any:
                return self.computed(self._one(given, asked).given, look=False)

            try:
                result = in_chunks(lambda part: vectorised(one, batched, part), batched.size, chunk_size)
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except RuntimeError:  # of f, or of PyTorch: the loop says
                pass
            else:
                self._look_at_batch(result, batched)
                return result
        call = replace(self, method=other)

        def each(part: slice) -> Any:
            found = [stacked(call.computed(call._one(*batched.point(i)).given)) for i in range(part.start, part.stop)]
            return found[0] if len(found) == 1 else _tree.mapped(lambda *ts: torch.cat(ts), *found)

        return in_chunks(each, batched.size, chunk_size if isinstance(chunk_size, Budget) else 1)

    def _look_at_batch(self, result: Any, batched: Batch) -> None:
        """The same of every point that one call looks at, where there is something to see."""
        if kept() and not self.own_graph:
            return
        seen = isinstance(result, Tensor) and (self.strict or (result.is_cpu and not unwatched()))
        unsound = seen and not is_finite(result)
        for i in range(batched.size) if unsound or self.verify else ():
            at = _tree.mapped(lambda t, i=i: t[i], result)
            self._look_at(self.where, at, self.operator.guard(**self._one(*batched.point(i)).given))

"""What is prepared: an operator of a function by a method, as functions of tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from hograd_core._checks import check_positive
from hograd_core._registry import Operator, arguments_of, resolve
from hograd_core.hazards._modes import Repairing

_MODEL = ("module", "loss")


@dataclass(frozen=True)
class Task:
    """An operator of f with its method and options.

    Attributes:
        operator: the operator.
        f: (x, *args) -> a 0-dimensional tensor; of operators on fields u: (points, *args) -> a value a point; of
            operators on models their module and loss.
        options: order, method, repair and the method's own options.
        chunk_size, memory: of a Hessian: rows at a time, and bytes that it may take, itself included.
    """

    operator: Operator[..., Tensor]
    f: Any
    options: Mapping[str, Any]
    chunk_size: int | None = None
    memory: int | None = None

    @property
    def is_hessian(self) -> bool:
        """Whether it is a Hessian by rows of a reverse sweep each: that of prepared kernels has two stages."""
        rows = self.options.get("method", "rows") in ("rows", "batched_rows")
        return self.operator.name == "derivative_tensor" and self.options["order"] == 2 and rows

    @property
    def is_sparse(self) -> bool:
        """Whether the result is a matrix in compressed rows."""
        return self.operator.name == "sparse_hessian"

    @property
    def is_coloured(self) -> bool:
        """Whether it is a Hessian by products with colours of its pattern."""
        named = self.operator.name == "derivative_tensor" and self.options.get("method") == "coloured"
        return named or self.is_sparse

    @property
    def is_matrix(self) -> bool:
        """Whether it is a Hessian that a kernel makes of products, by which it is held against the eager way."""
        return self.is_hessian or self.is_coloured

    @property
    def product(self) -> Task:
        """Of a Hessian: its product with a direction."""
        options = {name: option for name, option in self.options.items() if name != "method"}
        return replace(self, operator=resolve("hvp")[0], options={**options, "order": 2})

    @property
    def of_model(self) -> bool:
        """Whether it is an operator on a module and a loss: calls take inputs, targets and directions."""
        return self.operator.inputs[:2] == _MODEL

    @property
    def directions(self) -> int:
        """How many tensors a call takes after x; of an operator on models, after the inputs."""
        return len(self._names) - 1

    @property
    def _names(self) -> list[str]:
        """What a call takes."""
        return [name for name in self.operator.inputs[2 if self.of_model else 1 :] if name != "order"]

    def _first(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """What a call of the operator takes before its tensors."""
        return tuple(self.f) if self.of_model else (self.function(tensors),)

    def eager(self, *tensors: Tensor) -> Tensor:
        """The operator as it is called without preparation, guard and all, of (x, *directions, *args)."""
        return self.operator(*self._first(tensors), *tensors[: 1 + self.directions], **self.options)

    def kernel(self, *tensors: Tensor) -> Tensor:
        """The same without looking for hazards: what is traced."""
        f, *more = self._first(tensors)
        options = dict(self.options)
        if options.pop("repair", False):
            plain = f

            def f(x: Tensor) -> Tensor:
                with Repairing():
                    found: Tensor = plain(x)
                    return found

        return self.operator.unguarded(f, *more, *tensors[: 1 + self.directions], **options)

    def function(self, tensors: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """f of x alone, the further arguments being those of a call."""
        args = tensors[1 + self.directions :]
        return (lambda x: self.f(x, *args)) if args else self.f

    def checked(self, given: Sequence[Any], args: Sequence[Any]) -> list[Tensor]:
        """The tensors of a call, plain and contiguous.

        Raises:
            TypeError, ValueError: as the operator says.
        """
        if len(given) != 1 + self.directions:
            raise TypeError(f"a call takes {', '.join(self._names)}: got {len(given)} of them")
        for i, tensor in enumerate(args):
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    f"args[{i}]: got {type(tensor).__name__}, expected a tensor; what is no tensor belongs into f"
                )
        if self.of_model:
            if not all(isinstance(tensor, Tensor) for tensor in given):
                raise TypeError("inputs, targets: prepared operators on models take one tensor each")
            self.operator.guard(*self.f, *given)
            return [ordinary(t) for t in given]
        extra = {"order": self.options["order"]} if "order" in self.options else {}
        checked = self.operator.guard(self.f, *given, **extra)[1 : 1 + len(given)]
        return [ordinary(t) for t in (*checked, *args)]


def ordinary(tensor: Tensor) -> Tensor:
    """A tensor whose memory is what it holds, in one piece, of no graph and no mode."""
    plain = tensor.clone() if tensor.is_inference() else tensor.detach()
    return plain.resolve_conj().resolve_neg().contiguous()


def task(operator: Any, f: Any, how: Mapping[str, Any]) -> Task:
    """The task that an operator, or one of its aliases, or its name, stands for.

    Raises:
        TypeError: not an operator of a function of x; f is not callable; an option is not one.
        ValueError: no such operator or method.
    """
    name = operator if isinstance(operator, str) else getattr(operator, "__name__", None)
    if name is None and isinstance(operator, Operator):
        name = operator.name
    if not isinstance(name, str):
        raise TypeError(f"operator: got {type(operator).__name__}, expected one of hograd_core's operators, as hvp")
    record, fixed = resolve(name)
    if record.inputs[:2] == _MODEL:
        if not (isinstance(f, tuple) and len(f) == 2):
            raise TypeError(f"prepare: {name} takes module, loss, {', '.join(record.inputs[2:])}")
    elif not record.of_a_function:
        raise TypeError(f"operator: {name} is not one of a function f of x; prepare those that are, as hvp and hessian")
    elif not callable(f):
        raise TypeError(f"f: got {type(f).__name__}, expected a callable taking x and returning a scalar tensor")
    options = {key: value for key, value in how.items() if value is not None}
    if record.takes_order:
        options["order"] = options.get("order", fixed or _default_order(record))
    for name in ("verify", "strict"):
        if options.pop(name, False):
            raise TypeError(f"{name}: not an option of prepared kernels; a kernel is compared when it is made")
    made = Task(record, f, options)
    if made.is_hessian:
        chunk, memory = (options.pop(name, None) for name in ("chunk_size", "memory"))
        for name, number in (("chunk_size", chunk), ("memory", memory)):
            if number is not None:
                check_positive(number, name)
        made = Task(record, f, options, chunk, memory)
    elif "memory" in options:
        raise TypeError("memory: an option of hessian by rows")
    return made


def _default_order(record: Operator[..., Any]) -> Any:
    default = arguments_of(record.guard).parameters["order"].default
    if default is inspect.Parameter.empty:
        raise TypeError(f"order: {record.name} needs one")
    return default

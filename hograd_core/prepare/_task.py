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


@dataclass(frozen=True)
class Task:
    """An operator of f with its method and options.

    Attributes:
        operator: the operator.
        f: (x, *args) -> a 0-dimensional tensor; of operators on fields u: (points, *args) -> a value a point.
        options: order, method, repair and the method's own options.
        chunk_size, memory: of a Hessian: rows at a time, and bytes that it may take, itself included.
    """

    operator: Operator[..., Tensor]
    f: Callable[..., Tensor]
    options: Mapping[str, Any]
    chunk_size: int | None = None
    memory: int | None = None

    @property
    def is_hessian(self) -> bool:
        """Whether it is a Hessian by rows of a reverse sweep each: that of prepared kernels has two stages."""
        rows = self.options.get("method", "rows") in ("rows", "batched_rows")
        return self.operator.name == "derivative_tensor" and self.options["order"] == 2 and rows

    @property
    def product(self) -> Task:
        """Of a Hessian: its product with a direction."""
        options = {name: option for name, option in self.options.items() if name != "method"}
        return replace(self, operator=resolve("hvp")[0], options=options)

    @property
    def directions(self) -> int:
        """How many tensors a call takes after x."""
        return len([name for name in self.operator.inputs[2:] if name != "order"])

    def eager(self, *tensors: Tensor) -> Tensor:
        """The operator as it is called without preparation, guard and all, of (x, *directions, *args)."""
        return self.operator(self._of(tensors), *tensors[: 1 + self.directions], **self.options)

    def kernel(self, *tensors: Tensor) -> Tensor:
        """The same without looking for hazards: what is traced."""
        f = self._of(tensors)
        options = dict(self.options)
        if options.pop("repair", False):
            plain = f

            def f(x: Tensor) -> Tensor:
                with Repairing():
                    return plain(x)

        return self.operator.unguarded(f, *tensors[: 1 + self.directions], **options)

    def _of(self, tensors: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        args = tensors[1 + self.directions :]
        return (lambda x: self.f(x, *args)) if args else self.f

    def checked(self, given: Sequence[Any], args: Sequence[Any]) -> list[Tensor]:
        """The tensors of a call, plain and contiguous.

        Raises:
            TypeError, ValueError: as the operator says.
        """
        if len(given) != 1 + self.directions:
            names = [name for name in self.operator.inputs[1:] if name != "order"]
            raise TypeError(f"a call takes {', '.join(names)}: got {len(given)} of them")
        for i, tensor in enumerate(args):
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    f"args[{i}]: got {type(tensor).__name__}, expected a tensor; what is no tensor belongs into f"
                )
        extra = {"order": self.options["order"]} if "order" in self.options else {}
        checked = self.operator.guard(self.f, *given, **extra)[1 : 1 + len(given)]
        return [_ordinary(t) for t in (*checked, *args)]


def _ordinary(tensor: Tensor) -> Tensor:
    plain = tensor.clone() if tensor.is_inference() else tensor.detach()
    return plain.contiguous()


def task(operator: Any, f: Callable[..., Tensor], how: Mapping[str, Any]) -> Task:
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
    if not record.of_a_function:
        raise TypeError(f"operator: {name} is not one of a function f of x; prepare those that are, as hvp and hessian")
    if not callable(f):
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

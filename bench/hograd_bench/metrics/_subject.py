"""A cell made callable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import hograd_core
from hograd_bench import problems
from hograd_bench.cells import Cell
from hograd_core import Method, Operator


class Subject:
    """A cell made callable: what every metric family measures.

    Attributes:
        cell, operator, method: what is measured.
        instance: the problem built in the cell's dtype on its device.
        arguments: the operator's arguments, taken from the instance by name.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.operator: Operator
        self.operator, _ = hograd_core.resolve(cell.operator)
        self.method: Method = self.operator.method(cell.method)
        self.problem = problems.get(cell.problem)
        self.spec = problems.Spec(cell.n, cell.depth, cell.batch)
        self.dtype: torch.dtype = getattr(torch, cell.dtype)
        self.instance = self.problem.instance(self.spec, self.dtype, cell.device)
        self.arguments = self.arguments_of(self.instance)
        self._keywords: dict[str, Any] = {"method": cell.method}
        if self.operator.takes_order:
            self._keywords["order"] = cell.order

    def arguments_of(self, instance: problems.Instance) -> tuple[Any, ...]:
        """The operator's positional arguments on an instance."""
        known: Mapping[str, Any] = {"f": instance.f, "x": instance.x, "v": instance.v, **instance.extras}
        return tuple(known[name] for name in self.operator.inputs)

    def call(self) -> Any:
        """The operator by the cell's method: the thing that is measured, without hograd's guard."""
        return self.operator.unguarded(*self.arguments, **self._keywords)

    def guarded_call(self) -> Any:
        """The same as a user calls it."""
        return self.operator(*self.arguments, **self._keywords)

    def call_with(self, f: Callable[[Tensor], Tensor]) -> Any:
        """The same with f replaced (by a counting wrapper, say); only where the operator takes f."""
        replaced = tuple(f if name == "f" else a for name, a in zip(self.operator.inputs, self.arguments, strict=True))
        return self.operator.unguarded(*replaced, **self._keywords)

    def gradient(self) -> Tensor:
        """One plain reverse-mode gradient of the problem's f at x: the unit of gradient equivalents."""
        x = self.instance.x.detach().requires_grad_(True)
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self.instance.f(x), x, allow_unused=True, materialize_grads=True)
        return g

    def precise_arguments(self) -> tuple[Any, ...]:
        """The same arguments in float64 on the CPU, at exactly the rounded values that :meth:`call` sees."""
        exact = self.problem.instance(self.spec, self.dtype, "cpu", precise=True)
        return self.arguments_of(exact)

"""A cell made callable."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import hograd_core
from hograd_bench import peers, problems
from hograd_bench.cells import Cell
from hograd_core import Method, Operator, UnsupportedError
from hograd_core.prepare import Prepared

_MODEL = ("module", "loss")


class Subject:
    """A cell made callable: what every metric family measures.

    Attributes:
        cell, operator, method: what is measured.
        instance: the problem built in the cell's dtype on its device.
        arguments: the operator's arguments, taken from the instance by name, as a user has them.
        peer: where the method is a peer's, that method made ready; else None.
        prepared: where the cell's preparation is another than eager, what is made ready of hograd's method; else None:
            the whole of it, or the Hessian-vector product of a method that takes one at hand and draws or iterates.
        prepare_seconds: what making it ready took.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.operator: Operator
        self.operator, _ = hograd_core.resolve(cell.operator)
        self.method: Method = peers.find(self.operator, cell.method, cell.order)
        self.problem = problems.get(cell.problem)
        self.spec = problems.Spec(cell.n, cell.depth, cell.batch)
        self.dtype: torch.dtype = getattr(torch, cell.dtype)
        self.instance = self.problem.instance(self.spec, self.dtype, cell.device)
        self.arguments, self._given = self.instance.call(self.operator)
        self._keywords: dict[str, Any] = {"method": cell.method}
        if self.operator.takes_order:
            self._keywords["order"] = cell.order
        self.peer: peers.Prepared | None = None
        self.prepared: Prepared | None = None
        self._products = False
        started = time.perf_counter()
        ready = isinstance(self.method, peers.PeerMethod) or cell.preparation != "eager"
        if ready and "in_dims" in self._given:
            raise UnsupportedError(self.where, "peers and prepared kernels are asked for one point at a time")
        if ready:  # made of one tensor
            self.arguments, self._given = replace(self.instance, given=None).call(self.operator)
        if isinstance(self.method, peers.PeerMethod):
            self.peer = self.method.prepare(peers.Task(cell, self.instance))
        elif cell.preparation != "eager":
            self.prepared = self.prepare()
        self.prepare_seconds = time.perf_counter() - started

    @property
    def _of_model(self) -> bool:
        return tuple(self.operator.inputs[:2]) == _MODEL

    @property
    def where(self) -> str:
        """Operator and method, for messages."""
        return f"{self.operator.name}[{self.cell.method}]"

    def prepare(self) -> Prepared:
        """The method made ready as the cell says.

        Raises:
            UnsupportedError: it cannot be; another preparation's figures would be under a wrong name.
        """
        made = None
        if self._of_model or self.operator.of_a_function:
            given = self.arguments if self._of_model else self.arguments[:2]
            made = hograd_core.prepare(self.operator, *given, preparation=self.cell.preparation, **self._keywords)
        elif not self._takes_products:
            raise UnsupportedError(self.where, "prepared are operators of a function of x, or of a module and a loss")
        self._products = self._takes_products and (made is None or made.preparation != self.cell.preparation)
        if made is None or self._products:
            made = self._product()
        if made.preparation != self.cell.preparation:
            raise UnsupportedError(self.where, f"not prepared so: {made.reason}")
        return made

    @property
    def _takes_products(self) -> bool:
        return "preparation" in inspect.signature(self.method.function).parameters

    def _product(self) -> Prepared:
        """The Hessian-vector product that the method asks for, by its own method where it is named after one."""
        hvp, order = hograd_core.resolve("hvp")
        own = {"method": self.cell.method} if self.cell.method in hvp.methods else {}
        how: dict[str, Any] = {"order": order, "preparation": self.cell.preparation, **own}
        return hograd_core.prepare(hvp, *self.arguments[:2], **how)

    def call(self) -> Any:
        """The operator by the cell's method: the thing that is measured, without hograd's guard."""
        if self.peer is not None:
            return self.peer.call()
        if self.prepared is None:
            return self.eager_call()
        if self._products:
            return self.operator.unguarded(*self.arguments, **self._keywords, preparation=self.prepared)
        return self.prepared(*self.arguments[2 if self._of_model else 1 :])

    def eager_call(self) -> Any:
        """The operator by the cell's method, without preparation and without hograd's guard."""
        return self.operator.unguarded(*self.arguments, **self._given, **self._keywords)

    def by(self, method: str) -> Any:
        """The same operator by another of hograd's methods."""
        return self.operator.unguarded(*self.arguments, **self._given, **{**self._keywords, "method": method})

    def tensors(self, result: Any) -> list[Any]:
        """What :meth:`call` returned, as hograd's own methods return it, at each point: one, but for a batch."""
        if self.peer is not None:
            return [self.peer.tensors(result)]
        return [result] if self.prepared is not None else self.instance.flat(result, self.operator, self.cell.order)

    @property
    def unseen(self) -> str | None:
        """Why PyTorch's instruments see nothing of a call; None: they do."""
        framework = self.method.peer.framework if isinstance(self.method, peers.PeerMethod) else "PyTorch"
        return None if framework == "PyTorch" else f"{framework} runs it, of which PyTorch's instruments see nothing"

    @property
    def undispatched(self) -> str | None:
        """Why a dispatched call does not tell what work is done; None: it does."""
        if self.prepared is None or self.cell.preparation == "graph":
            return None
        return "compiled code does its work without dispatching it; graph_operations counts what it was made from"

    @functools.cached_property
    def function_values(self) -> tuple[float, float] | None:
        """A peer's own value of the function and the true one; None where hograd's f itself is differentiated."""
        if self.peer is None:
            return None
        return self.peer.value(), peers.value_of(self.precise())

    def wait(self) -> None:
        """Return once the device has done what it was given; a GPU only queues what a call asks of it."""
        if self.cell.device != "cpu":
            torch.cuda.synchronize()

    def guarded_call(self) -> Any:
        """The same as a user calls it."""
        if self.prepared is not None:
            return self.call()
        return self.operator(*self.arguments, **self._given, **self._keywords)

    def call_with(self, f: Callable[..., Tensor]) -> Any:
        """The same with f replaced (by a counting wrapper, say); only where the operator takes f.

        A prepared kernel does not call f again.
        """
        if self.prepared is not None:
            return self.call()
        replaced = tuple(f if name == "f" else a for name, a in zip(self.operator.inputs, self.arguments, strict=True))
        return self.operator.unguarded(*replaced, **self._given, **self._keywords)

    def gradient(self) -> Tensor:
        """One plain reverse-mode gradient of the problem's f at x: the unit of gradient equivalents.

        A structure is laid flat, and of a batch it is the first point's.
        """
        x = self.instance.x.detach().requires_grad_(True)
        with torch.enable_grad():
            value = self.instance.f(x)
            if not value.requires_grad:  # it does not depend on x
                return torch.zeros_like(x)
            found: tuple[Tensor] = torch.autograd.grad(value, x, allow_unused=True, materialize_grads=True)
        return found[0]

    def precise(self) -> problems.Instance:
        """The problem in float64 on the CPU, at exactly the rounded values that :meth:`call` sees."""
        return self.problem.instance(self.spec, self.dtype, "cpu", precise=True)

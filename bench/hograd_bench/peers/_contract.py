"""What a peer is: a package that provides methods of hograd's operators. One file declares one; nothing else is edited.

    PEER = Peer("curvlinops", distribution="curvlinops-for-pytorch", home="...", requires=(...))

    @PEER.method("hvp", "HessianLinearOperator @ v")
    def hvp(task: Task) -> Prepared: ...

The peer's package is imported inside its functions only: where it is not installed its cells are rows that say so.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import hograd_core
from hograd_bench import problems
from hograd_bench.cells import Cell
from hograd_core import Method, UnsupportedError
from hograd_core._unsupported import pytorch_limit

LOSS_MODULES: Mapping[Any, Callable[[], nn.Module]] = {F.cross_entropy: nn.CrossEntropyLoss, F.mse_loss: nn.MSELoss}
"""Functional losses and the modules that model-based packages want in their place."""

NOT_INSTALLED = Path(sys.prefix, "not-installed.json")
"""Distribution -> why pip could not install it; `nox -s peers` leaves it in the environment that it builds."""


def value_of(instance: problems.Instance) -> float:
    """The number by which two writings of a problem are known to be one function.

    f at x; for a field u, whose operators do not differentiate f, the sum of u over the points.
    """
    if "u" in instance.extras:
        return float(instance.extras["u"](instance.extras["points"]).sum())
    return float(instance.f(instance.x))


@dataclass(frozen=True)
class Task:
    """A cell and its problem: what a peer builds its call from.

    Attributes:
        cell: what is measured.
        instance: the problem in the cell's dtype; the same numbers in every process.
    """

    cell: Cell
    instance: problems.Instance

    @property
    def f(self) -> Callable[[Tensor], Tensor]:
        """The function of one flat vector."""
        return self.instance.f

    @property
    def x(self) -> Tensor:
        """The point."""
        x: Tensor = self.instance.x
        return x

    @property
    def v(self) -> Tensor:
        """The direction, shaped like x."""
        v: Tensor = self.instance.v
        return v

    def value(self) -> float:
        """:func:`value_of` the torch function."""
        return value_of(self.instance)

    def extra(self, name: str) -> Any:
        """What the problem provides under that name (``module``, ``loss``, ``inputs``, ``targets``, ``u``, ...).

        Raises:
            LookupError: the problem provides no such thing.
        """
        if name not in self.instance.extras:
            raise LookupError(f"problem: {self.cell.problem} provides no {name!r}, which this peer needs")
        return self.instance.extras[name]

    @property
    def loss_module(self) -> nn.Module:
        """The loss as the ``nn.Module`` of the same function.

        Raises:
            LookupError: none is known for this loss; add it to ``LOSS_MODULES``.
        """
        loss = self.extra("loss")
        if loss not in LOSS_MODULES:
            raise LookupError(f"loss: {getattr(loss, '__name__', loss)} has no module in LOSS_MODULES")
        return LOSS_MODULES[loss]()

    def split(self, flat: Tensor) -> list[Tensor]:
        """A flat vector as one tensor for each trainable parameter of the module, in the order of the flat vector."""
        parameters = [p for p in self.extra("module").parameters() if p.requires_grad]
        parts = torch.split(flat, [p.numel() for p in parameters])
        return [part.reshape(p.shape) for part, p in zip(parts, parameters, strict=True)]


def joined(result: Any) -> Tensor:
    """A tensor as it is; what holds several, one a parameter, as one flat tensor."""
    if isinstance(result, Tensor):
        return result
    return torch.cat([torch.as_tensor(leaf).detach().reshape(-1) for leaf in tree_leaves(result)])


@dataclass(frozen=True)
class Prepared:
    """A peer's method made ready on one problem.

    Attributes:
        call: computes the operator once; when it returns, the result is there (no asynchronous work is left).
        value: the peer's own function at the point; held against the truth's before anything else.
        tensors: the result -> what hograd's methods return, not timed.
        readings: figures of the peer's own instruments, by the name of a metric that has a record.
    """

    call: Callable[[], Any]
    value: Callable[[], float]
    tensors: Callable[[Any], Any] = joined
    readings: Callable[[], Mapping[str, float]] = dict


Build = Callable[[Task], Prepared]


@dataclass(frozen=True, eq=False, kw_only=True)
class PeerMethod(Method):
    """A method that a peer provides; its ``function`` makes it ready, see :class:`Prepared`.

    Attributes:
        peer: whose it is.
        how: in the peer's own words: the call a user writes.
        note: what a reader must know to judge its figures, one clause.
    """

    peer: Peer
    how: str
    note: str = ""

    def prepare(self, task: Task) -> Prepared:
        """Make the method ready for a problem.

        Raises:
            UnsupportedError: the peer, or PyTorch, cannot do this; then, or at a call.
            ImportError: the package cannot be imported.
        """
        self.peer.set_up(task.cell.threads)
        made: Prepared = self._told(self.function, task)
        return replace(made, call=functools.partial(self._told, made.call))

    def _told(self, function: Callable[..., Any], *given: Any) -> Any:
        """What the function returns; what the peer or PyTorch cannot do is named, a fault goes through as it is."""
        try:
            return function(*given)
        except UnsupportedError:
            raise
        except (LookupError, RuntimeError, AssertionError) as error:
            # A bare LookupError is an adapter's own word that it cannot take the problem; a KeyError is a fault.
            reason = str(error) if type(error) is LookupError else pytorch_limit(error)
            if not reason:
                raise
            raise UnsupportedError(f"{self.operator}[{self.name}]", reason) from error


@dataclass
class Peer:
    """A package that is measured.

    Attributes:
        name: unique, what its methods are called.
        distribution: its name at the package index, whose installed version is recorded.
        home: where it lives, "owner/name" at GitHub or a domain.
        requires: what pip installs for it, without dependencies: the distribution and those of its dependencies that
            are not hograd's own; versions are pinned in constraints-peers.txt.
        framework: what its kernels run on; PyTorch's instruments see no other.
        set_up: called with the threads of the cell, in the process that measures, before the package is imported:
            variables that it reads, threads.
        methods: filled by :meth:`method`.
    """

    name: str
    distribution: str
    home: str
    requires: tuple[str, ...] = ()
    framework: str = "PyTorch"
    set_up: Callable[[int], object] = lambda threads: None
    methods: list[PeerMethod] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):  # part of a cell's id, which is typed into shells
            raise ValueError(f"peer: got name {self.name!r}, expected lower-case letters, digits and '_'")

    def method(self, operator: str, how: str, *, variant: str = "", note: str = "") -> Callable[[Build], Build]:
        """Declare the decorated function as this peer's method of an operator, by its name or an alias.

        Args:
            operator: of hograd; an alias fixes the order.
            how: see :class:`PeerMethod`.
            variant: what tells it from the peer's other methods of the operator; part of its name.
            note: see :class:`PeerMethod`.

        Raises:
            ValueError: no such operator, or it has a method of that name already.
        """
        record, order = hograd_core.resolve(operator)
        name = f"{self.name}_{variant}" if variant else self.name
        taken = {m.name for m in self.methods if m.operator == record.name and order in (m.max_order, None)}
        if name in taken or name in record.methods:
            raise ValueError(f"peer: {record.name}[{name}] is declared twice")

        def tolerance(eps: float, at: int) -> float:
            # The widest that an exact method of hograd is allowed holds for all.
            rounding = min(64 * 4.0**at * eps, 0.5)
            ours = [m.tolerance for m in record.methods.values() if m.exact and m.supports(at) and m.tolerance]
            return max([rounding, *(rule(eps, at) for rule in ours)])

        def declare(build: Build) -> Build:
            self.methods.append(
                PeerMethod(
                    record.name, name, build, how, f"{self.distribution}: {how}",
                    min_order=order or 1, max_order=order, tolerance=tolerance, peer=self, how=how, note=note,
                )
            )  # fmt: skip
            return build

        return declare

    @property
    def version(self) -> str | None:
        """The installed version of its distribution, or None."""
        try:
            return importlib.metadata.version(self.distribution)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            return None

    @property
    def absence(self) -> str | None:
        """Why it is not there, in a sentence; None where it is."""
        if self.version is not None:
            return None
        failures = json.loads(NOT_INSTALLED.read_text(encoding="utf-8")) if NOT_INSTALLED.exists() else {}
        why = failures.get(self.name)
        return f"could not be installed: {why}" if why else f"{self.distribution} is not installed; `nox -s peers` does"

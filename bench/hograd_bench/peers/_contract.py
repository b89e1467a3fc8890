"""What a peer is. One file beside this one declares one peer; nothing else is edited.

    PEER = Peer("curvlinops", distribution="curvlinops-for-pytorch", module="curvlinops", home="...", requires=(...))

    @PEER.offer("hvp", "HessianLinearOperator @ v")
    def hvp(task: Task) -> Contestant: ...

The peer's package is imported inside its functions only: where it is not installed its offers become rows that say so.
This module imports no suite room that runs kernels but ``problems``, and no peer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from hograd_bench import problems

LOSS_MODULES: Mapping[Any, Callable[[], nn.Module]] = {F.cross_entropy: nn.CrossEntropyLoss, F.mse_loss: nn.MSELoss}
"""Functional losses and the modules that model-based packages want in their place."""


@dataclass(frozen=True)
class Contest:
    """One function and one operator that all who offer it are measured on.

    Attributes:
        operator: name or alias of an operator of ``hograd_core``, or ``minimize`` or ``kfac``.
        problem: name of the problem.
        n, depth, batch: its sizes.
        order: derivative order, where the operator takes one.
        dtype: name of the dtype.
    """

    operator: str
    problem: str
    n: int
    depth: int = 1
    batch: int = 1
    order: int = 2
    dtype: str = "float32"

    @property
    def id(self) -> str:
        """A name that is unique among contests, in the words of a cell's id."""
        sizes = f"n={self.n},depth={self.depth},batch={self.batch}"
        return f"{self.operator}/{self.problem}/{sizes},order={self.order}/{self.dtype}"

    @property
    def spec(self) -> problems.Spec:
        """Sizes for the problem's factory."""
        return problems.Spec(self.n, self.depth, self.batch)


def value_of(instance: problems.Instance) -> float:
    """The number by which two writings of a problem are known to be one function.

    f at x; for a field u, whose operators do not differentiate f, the sum of u over the points.
    """
    if "u" in instance.extras:
        return float(instance.extras["u"](instance.extras["points"]).sum())
    return float(instance.f(instance.x))


class Task:
    """A contest made concrete in one process: what an adapter builds its call from.

    Attributes:
        contest: what is measured.
        instance: the problem in the contest's dtype on the CPU; the same numbers in every process.
    """

    def __init__(self, contest: Contest) -> None:
        self.contest = contest
        self.dtype: torch.dtype = getattr(torch, contest.dtype)
        self.instance = problems.get(contest.problem).instance(contest.spec, self.dtype)

    @property
    def f(self) -> Callable[[Tensor], Tensor]:
        """The function of one flat vector."""
        return self.instance.f

    @property
    def x(self) -> Tensor:
        """The point."""
        return self.instance.x

    @property
    def v(self) -> Tensor:
        """The direction, shaped like x."""
        assert self.instance.v is not None
        return self.instance.v

    def value(self) -> float:
        """:func:`value_of` the torch function."""
        return value_of(self.instance)

    def extra(self, name: str) -> Any:
        """What the problem provides under that name (``module``, ``loss``, ``inputs``, ``targets``, ``u``, ...).

        Raises:
            LookupError: the problem provides no such thing.
        """
        if name not in self.instance.extras:
            raise LookupError(f"problem: {self.contest.problem} provides no {name!r}, which this peer needs")
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


@dataclass(frozen=True)
class Memory:
    """Most bytes that a call holds at once, its result included, and what read it.

    Figures of two instruments are never set against each other.
    """

    peak_bytes: int
    instrument: str


@dataclass(frozen=True)
class Contestant:
    """An offer made ready to be called.

    Attributes:
        call: computes the operator once; when it returns, the result is there (no asynchronous work is left).
        value: the peer's own function at the point; compared with the truth's before anything else.
        flat: result -> a flat float64 tensor in the order of hograd's flat vector; None: tensors, concatenated.
        memory: reads the memory of one call; None: PyTorch's allocator is asked.
        compile_seconds: what tracing and compiling took, where the peer compiles ahead of the first call.
        note: what a reader must know to judge the row, one clause.
    """

    call: Callable[[], Any]
    value: Callable[[], float]
    flat: Callable[[Any], Tensor] | None = None
    memory: Callable[[], Memory] | None = None
    compile_seconds: float | None = None
    note: str = ""


Build = Callable[[Task], Contestant]


@dataclass(frozen=True)
class Offer:
    """An operator that a peer computes, one way.

    Attributes:
        operator: as in :class:`Contest`.
        way: how, in the peer's own words: the call a user writes. Unique for an operator of a peer.
        build: makes the contestant.
        fits: whether this way is defined for a contest.
    """

    operator: str
    way: str
    build: Build
    fits: Callable[[Contest], bool] = lambda contest: True


@dataclass
class Peer:
    """A package that is measured.

    Attributes:
        name: unique, as shown in tables.
        distribution: its name at the package index, whose installed version is recorded.
        module: what is imported to see that it works.
        home: where it lives, "owner/name" at GitHub or a domain.
        requires: what pip installs for it, without dependencies: the distribution and those of its dependencies that
            are not hograd's own; versions are pinned in constraints-peers.txt.
        framework: what its kernels run on.
        variables: environment variables of its process.
        offers: filled by :meth:`offer`.
    """

    name: str
    distribution: str
    module: str
    home: str
    requires: tuple[str, ...] = ()
    framework: str = "PyTorch"
    variables: Mapping[str, str] = field(default_factory=dict)
    offers: list[Offer] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]*", self.name):
            raise ValueError(f"peer: got name {self.name!r}, expected letters, digits, spaces, '.', '_' and '-'")

    def offer(
        self, operator: str, way: str, fits: Callable[[Contest], bool] = lambda contest: True
    ) -> Callable[[Build], Build]:
        """Declare the decorated function as this peer's way to compute an operator; see :class:`Offer`.

        Raises:
            ValueError: the operator has an offer of that name already.
        """

        def declare(build: Build) -> Build:
            if any((o.operator, o.way) == (operator, way) for o in self.offers):
                raise ValueError(f"peer: {self.name} offers {operator} by {way!r} twice")
            self.offers.append(Offer(operator, way, build, fits))
            return build

        return declare

    def offered(self, contest: Contest) -> list[Offer]:
        """The offers that enter a contest."""
        return [o for o in self.offers if o.operator == contest.operator and o.fits(contest)]

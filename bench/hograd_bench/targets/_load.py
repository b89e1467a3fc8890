"""From a name, or objects, to f and x as methods take them."""

from __future__ import annotations

import importlib
import inspect
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hograd_bench import own_files
from hograd_bench.targets._request import Request
from hograd_core import from_module
from hograd_core.arguments import packing, point_of

_SIZE = "n"
_FORMS = "(f, x), Example(f, x, args=...), or (module, loss, inputs, targets)"


class TargetError(ValueError):
    """A target cannot be loaded or is none; the message says what was got, what was expected, and the remedy."""


@dataclass(frozen=True)
class Example:
    """A function with the point it is differentiated at: what a factory may return.

    Attributes:
        f: ``f(x, *args)`` returns a 0-dimensional tensor.
        x: a tensor, or a structure of tensors (dicts, lists, tuples).
        args: what f takes after x; not differentiated.
    """

    f: Callable[..., Tensor]
    x: Any
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """A target at one size.

    Attributes:
        f: of one tensor.
        x: the point, a structure laid flat (:mod:`hograd_core.arguments`).
        leaves: names of the tensors that x was made of; of a single tensor none.
        extras: of a model its ``module``, ``loss``, ``inputs``, ``targets``.
        owner: what code of the target's own is looked for in: the module, or f as it was given.
        form: what the target is: "f", "pair", "example" or "module".
        given: f, x and args as they were given, but for a model.
    """

    f: Callable[[Tensor], Tensor]
    x: Tensor
    leaves: tuple[str, ...]
    extras: Mapping[str, Any]
    owner: Any
    form: str
    given: Example | None = None

    @property
    def has_args(self) -> bool:
        """Whether f takes more than x."""
        return self.given is not None and bool(self.given.args)


@dataclass
class Target:
    """What a name stands for; :meth:`at` makes it at one size.

    Attributes:
        request: what was asked for.
        named: the object of that name.
        parameter: the parameter of the factory that is its size, ``"shape"`` for f itself, or None.
    """

    request: Request
    named: Any
    parameter: str | None = field(init=False)

    def __post_init__(self) -> None:
        request = self.request
        if isinstance(self.named, nn.Module):
            raise TargetError(f"{request.target}: got a module, expected {_FORMS}; return them from a factory")
        if request.shape is not None:
            if not callable(self.named):
                raise TargetError(
                    f"{request.target}: got {type(self.named).__name__}, expected a function; --shape is for f itself"
                )
            self.parameter = "shape" if request.shape else None
            return
        takes = _parameters(self.named)
        self.parameter = request.scale or (_SIZE if _SIZE in takes else None)
        if self.parameter is not None and self.parameter not in takes:
            raise TargetError(
                f"scale: got {self.parameter!r}, expected a parameter of {request.target}, which has "
                f"{', '.join(takes) or 'none'}"
            )

    @property
    def size(self) -> int:
        """The size at which advice is wanted; 1 for a target that has none."""
        if self.request.n is not None or self.parameter is None:
            return self.request.n or 1
        if self.parameter == "shape":
            assert self.request.shape is not None
            return self.request.shape[0]
        default = _parameters(self.named)[self.parameter].default
        if not isinstance(default, int):
            raise TargetError(f"n: {self.request.target} has no default for {self.parameter}, give it with --n")
        return default

    def at(self, n: int) -> Loaded:
        """The target at size n, with every generator of random numbers at seed 0 before it is made.

        Raises:
            TargetError: it is none of the forms that are known.
        """
        _seed()
        request = self.request
        if request.device.startswith("cuda") and not torch.cuda.is_available():
            raise TargetError(
                f"device: got {request.device!r}, but torch {torch.__version__} finds no GPU here; leave it out for "
                "the CPU, or install a torch that is built for the GPU"
            )
        if request.shape is not None:
            dtype = getattr(torch, request.dtype or "float32")
            shape = (n, *request.shape[1:]) if request.shape else ()
            made: Any = (self.named, torch.randn(shape, dtype=dtype, device=request.device))
        elif callable(self.named) and not isinstance(self.named, (Example, tuple)):
            made = self.named(**self._arguments(n))
        else:
            made = self.named
        return _loaded(made, request)

    def _arguments(self, n: int) -> dict[str, Any]:
        takes, request = _parameters(self.named), self.request
        given: dict[str, Any] = {} if self.parameter is None else {self.parameter: n}
        if request.dtype is not None:
            if "dtype" not in takes:
                raise TargetError(
                    f"dtype: got {request.dtype!r}, but {request.target} takes none; give it a parameter `dtype`"
                )
            given["dtype"] = getattr(torch, request.dtype)
        if "device" in takes:
            given["device"] = request.device
        elif request.device != "cpu":
            raise TargetError(
                f"device: got {request.device!r}, but {request.target} takes none; give it a parameter `device`"
            )
        lacking = [p.name for p in takes.values() if p.default is p.empty and p.name not in given]
        if lacking:
            raise TargetError(
                f"{request.target}: takes {', '.join(lacking)}; for f itself give --shape, for a factory the defaults "
                "of its parameters, or --scale NAME for the one that is its size"
            )
        return given


def load(request: Request) -> Target:
    """The target of a request: its file is run, or its module imported, here.

    Raises:
        TargetError: there is no such file, module or name. Whatever the code itself raises goes through.
    """
    if request.target.endswith(".pt"):
        return Target(request, torch.load(request.target, weights_only=False))
    where, _, name = request.target.rpartition(":")
    if not where or not name:
        raise TargetError(
            f"target: got {request.target!r}, expected path/to/file.py:name or package.module:name, where name is f "
            "(with --shape) or a factory"
        )
    _seed()
    if where.endswith(".py"):
        path = Path(where).resolve()
        if not path.is_file():
            raise TargetError(f"target: got {request.target!r}, but there is no file {path}")
        sys.path.insert(0, str(path.parent))  # as `python file.py` does
        module = own_files.load(path, "hograd_target")
    else:
        sys.path.insert(0, "")
        if importlib.util.find_spec(where.partition(".")[0]) is None:
            raise TargetError(f"target: got {request.target!r}, but there is no module {where}; is it installed?")
        module = importlib.import_module(where)
    if not hasattr(module, name):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise TargetError(f"target: {where} has no {name!r}; it has {', '.join(sorted(there)[:12]) or 'no function'}")
    return Target(request, getattr(module, name))


def _loaded(made: Any, request: Request) -> Loaded:
    """f and x of what a factory returned."""
    if isinstance(made, tuple) and len(made) == 4 and isinstance(made[0], nn.Module):
        module, loss, inputs, targets = made
        f, x = from_module(module, loss, (inputs, targets))
        return Loaded(
            f, x, (), {"module": module, "loss": loss, "inputs": inputs, "targets": targets}, module, "module"
        )
    form = "example" if request.shape is None else "f"
    if isinstance(made, tuple) and len(made) == 2 and callable(made[0]):
        made, form = Example(*made), "pair" if request.shape is None else "f"
    if not isinstance(made, Example):
        got = f"a tuple of {len(made)}" if isinstance(made, tuple) else type(made).__name__
        hint = "; for f itself give --shape" if isinstance(made, Tensor) else ""
        raise TargetError(f"{request.target}: the factory returned {got}, expected {_FORMS}{hint}")
    leaves = () if isinstance(made.x, Tensor) else packing(made.x).names
    f, x, _ = point_of(made.f, made.x, made.args)
    return Loaded(f, x.detach(), leaves, {}, made.f, form, made)


def _parameters(named: Any) -> dict[str, inspect.Parameter]:
    if not callable(named):
        return {}
    try:
        return dict(inspect.signature(named).parameters)
    except ValueError:  # builtins may have none
        return {}


def _seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(0)

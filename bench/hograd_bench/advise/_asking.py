"""The two ways to ask: by name, whose code runs in child processes, and with objects."""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hograd_bench import known
from hograd_bench.advise import _plan
from hograd_bench.advise._advice import Advice, frame_of
from hograd_bench.advise._session import LostTargetError, Progress, Session

if TYPE_CHECKING:
    from hograd_bench.targets import Request

SECONDS, QUICK = 60.0, 10.0
"""Budgets of wall time."""


def advise(
    f: Callable[..., Any],
    x: Any,
    *,
    args: tuple[Any, ...] = (),
    operators: Sequence[str] = _plan.NEEDS,
    order: int | None = None,
    memory: str | int = "free",
    seconds: float = SECONDS,
    quick: bool = False,
    preparations: Sequence[str] = tuple(_plan.PREPARATIONS),
) -> Advice:
    """Which call to make for a function: every compatible method, measured on it and held against float64 truth.

    Where f, x and args can be pickled, and f is importable (no lambda or closure, not of ``__main__``), they are
    measured in child processes, which hang, die and exhaust memory for themselves; else in this one, which then waits
    for them, and the advice says so.

    Args:
        f: ``f(x, *args)`` returns a 0-dimensional tensor; it is called some thousand times.
        x: a tensor or a structure of tensors, in any real floating dtype, on any device.
        args: what f takes after x.
        operators: operators or aliases to advise on.
        order: also the derivatives of that order.
        memory: limit in bytes, as text such as ``"8GiB"``, or what is free on the device of x.
        seconds: budget of wall time.
        quick: a budget of 10 s.
        preparations: what the best methods are made ready by as well, in seconds each; none: they are called as is.

    With the environment variable HOGRAD_CACHE, a folder, what was measured is left there for ``method="auto"``.

    Returns:
        The advice; ``_repr_html_`` shows it in a notebook, ``frame`` has the rows, ``snippet("hessian")`` a call.

    Raises:
        TypeError: f is not callable.
        ValueError: an operator or the memory limit is none.
    """
    from hograd_bench.targets import Example, Request, Target

    if not callable(f):
        raise TypeError(f"f: got {type(f).__name__}, expected a callable of x that returns a 0-dimensional tensor")
    target = Target(Request(getattr(f, "__name__", type(f).__name__)), Example(f, x, args))
    budget = min(seconds, QUICK) if quick else seconds
    with tempfile.TemporaryDirectory(prefix="hograd-advise-") as folder:
        file = Path(folder) / "target.pt"
        asked = Session(target.request, budget, memory, operators, order, preparations=preparations)
        if _saved(target.named, file):
            return replace(_advice(replace(asked, request=Request(str(file)))), request=target.request.to_json())
        return _advice(replace(asked, target=target), notes=("measured in this process: f cannot be pickled",))


def advise_by_name(
    request: Request,
    *,
    operators: Sequence[str] = _plan.NEEDS,
    order: int | None = None,
    memory: str | int = "free",
    seconds: float = SECONDS,
    sizes: Sequence[int] = (),
    preparations: Sequence[str] = tuple(_plan.PREPARATIONS),
    progress: Progress = lambda what, gone: None,
) -> Advice:
    """The same for a target by its name; none of its code runs in this process.

    Args:
        request: the target.
        operators: as in :func:`advise`.
        order: likewise.
        memory: likewise.
        seconds: likewise.
        sizes: values of its size parameter to foretell at; none: about eight times its size.
        preparations: as in :func:`advise`.
        progress: hears what is done.

    Returns:
        The advice; of a target that hangs, dies or cannot be differentiated, one whose ``lost`` says so.
    """
    return _advice(Session(request, seconds, memory, operators, order, progress, preparations), tuple(sizes))


def _advice(session: Session, sizes: tuple[int, ...] = (), notes: tuple[str, ...] = ()) -> Advice:
    began = time.monotonic()
    request = session.request.to_json()
    try:
        session.run()
    except LostTargetError as error:
        took = time.monotonic() - began
        return Advice(request, {}, frame_of([]), (), seconds=took, lost=str(error), lost_more=error.more, notes=notes)
    described = session.described
    needs = tuple(_plan.needs(described, session.wanted, session.order))
    frame = frame_of(session.rows)
    here = frame[frame["n"] == described["n"]]
    known.remember(f"advise-{described['function']}", here, dict.fromkeys(here["problem"], described["function"]))
    return Advice(
        request, described, frame, needs, sizes or tuple(described["law_sizes"][-1:]),
        time.monotonic() - began, notes=notes,
    )  # fmt: skip


def _saved(example: Any, file: Path) -> bool:
    """Whether another process can have it."""
    import torch

    if getattr(example.f, "__module__", "__main__") == "__main__":
        return False
    try:
        torch.save(example, file)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError):
        return False
    return True

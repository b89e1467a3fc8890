"""For interactive use: ``hograd_bench.measure(f, x)`` gives a DataFrame, from which ``hograd_bench.laws`` goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import hograd_core
from hograd_bench import plan, store, targets
from hograd_bench.advise import NEEDS
from hograd_bench.advise._here import Here
from hograd_bench.cells import DTYPES, Cell
from hograd_bench.engine import Task

if TYPE_CHECKING:
    import pandas as pd


def measure(
    f: Callable[..., Any],
    x: Any = None,
    *,
    args: tuple[Any, ...] = (),
    n: int | Sequence[int] | None = None,
    operators: Sequence[str] = NEEDS,
    methods: Sequence[str] | None = None,
    order: int = 2,
    threads: int = 1,
    families: Sequence[str] = plan.FAMILIES,
) -> pd.DataFrame:
    """Every method of some operators on a function of one's own: measured here, each result held against float64 truth.

    Args:
        f: ``f(x, *args)`` returns a 0-dimensional tensor. With ``n``: a factory, ``f(n=...)`` returns ``(f, x)``, an
            ``Example``, or ``(module, loss, inputs, targets)``.
        x: a tensor or a structure of tensors, in a real floating dtype, on any device; None with ``n``.
        args: what f takes after x.
        n: sizes at which a factory is called.
        operators: operators or aliases.
        methods: some methods; None: all of each operator.
        order: of operators that take one and are not named by an alias, which fixes it.
        threads: intra-op threads of torch.
        families: metric families (``hograd list --metrics``).

    Returns:
        A row for each operator, method and size, as ``store.load`` gives them: ``status`` and ``reason``, and a column
        for each metric in the unit of its record (bytes, seconds). Cost: some dozen calls of each method, and a truth
        that is slow by design; in this process, which waits for f.

    Raises:
        TypeError: f is not callable.
        ValueError: no such operator, method or family, one that f has no arguments for, or both or none of x and n.
    """
    if not callable(f):
        raise TypeError(f"f: got {type(f).__name__}, expected a callable")
    if (x is None) == (n is None):
        raise ValueError(
            "x, n: got both or neither, expected x, the point, or n, the sizes of the factory that f then is"
        )
    unknown = sorted(set(families) - set(plan.FAMILIES))
    if unknown:
        raise ValueError(f"families: got {unknown[0]!r}, expected some of {', '.join(plan.FAMILIES)}")
    name = getattr(f, "__name__", type(f).__name__)
    sizes = [1] if n is None else [n] if isinstance(n, int) else list(n)
    target = targets.Target(targets.Request(name, n=sizes[0]), f if n is not None else targets.Example(f, x, args))
    if n is not None and target.parameter is None:
        raise ValueError(f"n: got {n!r}, but {name} takes no argument n")
    rows: list[dict[str, Any]] = []
    with targets.declared(target) as problem:
        for size in sizes:
            made = target.at(size)
            place = {
                "dtype": str(made.x.dtype).removeprefix("torch."),
                "device": made.x.device.type,
                "threads": threads,
            }
            if place["dtype"] not in DTYPES:
                raise ValueError(f"x: got dtype {place['dtype']}, expected one of {', '.join(DTYPES)}")
            given = {"f", "x", "v", *made.extras}
            tasks = [
                Task(Cell(operator, method, problem, size, of, **place), tuple(families))
                for operator, of in _wanted(operators, order, given)
                for method in _methods(operator, of, methods)
            ]
            rows += [event.row for event in Here().run(tasks) if event.row is not None]
    return store.frame_of(list(enumerate(rows))).assign(problem=name)


def _wanted(names: Sequence[str], order: int, given: set[str]) -> list[tuple[str, int]]:
    found = []
    for name in names:
        operator, fixed = hograd_core.resolve(name)
        lacking = [needed for needed in operator.inputs if needed not in given]
        if lacking:
            raise ValueError(
                f"operators: {name} needs {', '.join(lacking)}; a factory returns (module, loss, inputs, targets)"
            )
        found.append((operator.name, fixed or operator.order or order))
    return found


def _methods(operator: str, order: int, names: Sequence[str] | None) -> list[str]:
    record, _ = hograd_core.resolve(operator)
    for name in names or ():
        record.method(name)  # raises, and lists those that exist
    fitting = [m.name for m in record.methods.values() if not record.takes_order or m.supports(order)]
    return fitting if names is None else [name for name in names if name in fitting]

"""Which cells a person asks for, and the plan for them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hograd_bench import claim_cells, claims, plan, problems, torch_state
from hograd_bench.cells import Cell
from hograd_bench.engine import Host, LostError, suite
from hograd_bench.plan import Planned

_CENSUS_SECONDS = 30.0


@dataclass(frozen=True)
class Asked:
    """Which cells a person asks for.

    Attributes:
        preset: name of a preset: its sweeps, where neither ``cells`` nor ``operators`` say otherwise.
        cells: ids of cells, instead.
        operators: names or aliases to sweep instead of the preset's.
        methods: of these operators; none: all.
        problems: to sweep instead of the preset's own.
        problem_files: files that declare problems: these are swept, too.
        axes: sizes, orders, dtypes and so on to sweep instead of the preset's, by their names in a sweep.
        only: keep what this text selects; see :func:`hograd_bench.plan.selected`.
        device: move every cell there.
        budget: bytes that a cell's result may take.
        timed: whether times are taken too.
    """

    preset: str = "default"
    cells: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    problem_files: tuple[str, ...] = ()
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    only: str = ""
    device: str | None = None
    budget: int = plan.MEMORY_BUDGET
    timed: bool = True


def planned(asked: Asked) -> list[Planned]:
    """The plan for what is asked.

    Raises:
        ValueError: an unknown name, a malformed id, a size that none of the problems has, or a problem file that cannot
            be loaded.
    """
    with loaded(asked.problem_files) as call:
        plans = plan.merge(_cells(asked))
        if asked.device is not None:
            plans = [replace(p, cell=replace(p.cell, device=asked.device)) for p in plans]
        if not asked.timed:
            # What was to be timed and nothing else is left out.
            exact = [replace(p, families=tuple(name for name in p.families if name != "time")) for p in plans]
            plans = [p for p in exact if p.families]
        plans = plan.selected(plans, asked.only) if asked.only else plans
        return plan.within_budget(plans, asked.budget, functools.partial(_census, call))


@contextlib.contextmanager
def loaded(files: Sequence[str]) -> Iterator[Callable[..., Any] | None]:
    """Register what problem files declare, once a process of their own, which answers calls meanwhile, has loaded them.

    They are somebody's programs: one may hang or end the process, or change settings of torch, which are kept here.

    Raises:
        ValueError: one cannot be loaded; the message names it.
    """
    if not files:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            call = stack.enter_context(suite(Host(problem_files=tuple(files))))
        except LostError as error:
            remedy = "; let it declare problems, and compute in their factories" if error.status == "timeout" else ""
            raise ValueError(f"{error}{remedy}") from None
        with torch_state.kept():
            for file in files:
                problems.load_file(file)
        yield call


def _cells(asked: Asked) -> list[Planned]:
    on = (*asked.problems, *problems.of_files(asked.problem_files))
    if asked.cells:
        return plan.cells_of(plan.of_cell(Cell.parse(text)) for text in asked.cells)
    if asked.operators:
        methods = {"methods": asked.methods or ("*",)}
        sweeps = [plan.changed(plan.Sweep(name), on, **methods, **asked.axes) for name in asked.operators]
        for name, sweep in zip(asked.operators, sweeps, strict=True):
            if sweep is None:
                raise ValueError(f"operator: none of the problems {', '.join(on)} provides what {name} needs")
    else:
        sweeps = [plan.changed(sweep, on, methods=asked.methods, **asked.axes) for sweep in plan.sweeps(asked.preset)]
    plans = plan.cells_of(sweeps)
    for size in plan.SIZES:
        wanted = asked.axes.get(size)
        if wanted and not any(getattr(p.cell, size) in wanted for p in plans):
            raise ValueError(f"{size}: got {', '.join(map(str, wanted))}, but none of the problems has this size")
    claimed = plan.load_presets().get(asked.preset, {}).get("claims", ())
    if claimed and not (on or asked.operators or asked.axes or asked.methods):
        needed = claim_cells.planned([claim for claim in claims.load() if claim.id in claimed])
        plans = plan.merge([*needed, *plans])
    return plans


def _census(call: Callable[..., Any] | None, instances: Sequence[plan.Sized]) -> list[int | None]:
    """Entries of x of each; those of problem files are asked in their process, which they may hang or end."""
    own = problems.texts()
    apart = [each for each in instances if each[0] in own]
    known: dict[plan.Sized, int | None] = {}
    if apart and call is not None:
        with contextlib.suppress(LostError):  # then the cells' own processes will say
            answers = call("hograd_bench.problems:numels", apart, seconds=_CENSUS_SECONDS)
            known = dict(zip(apart, answers, strict=True))
    here = [each for each in instances if each[0] not in own]
    known.update(zip(here, plan.census_here(here), strict=True))
    return [known.get(each) for each in instances]

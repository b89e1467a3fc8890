"""The validation study: each section compares an instrument with another or with a hand count, as Markdown.

python -m studies.validation                       # every section, to the terminal
python -m studies.validation memory operations     # some of them
python -m studies.validation --write docs/measurement.md
"""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
from hograd_bench import measure, metrics, plan, problems, torch_state
from hograd_bench import run as run_of
from hograd_bench.cells import Cell
from hograd_bench.engine import Host, Local, Task
from hograd_bench.metrics import Subject, counts, resident
from hograd_bench.metrics._allocations import trace
from hograd_bench.metrics._calls import repeatable

from hograd_core import UnsupportedError
from studies._document import Row, table
from studies.validation import determinism, native, operations, timing
from studies.validation.programs import PROGRAMS


def cells_of(preset: str) -> list[Cell]:
    """The cells of a preset that are attempted."""
    return [planned.cell for planned in plan.preset(preset) if planned.skip is None]


def every_cell_of(preset: str) -> list[Cell]:
    """The cells that ``hograd run`` attempts for a preset: those of :func:`cells_of` and those of its claims."""
    planned = run_of.planned(run_of.Asked(preset))
    return [each.cell for each in planned if each.skip is None]


def hand_counted(preset: str) -> str:
    """Peak bytes of programs counted by hand."""
    rows = []
    for program in PROGRAMS:
        program.build()()
        taken = trace(program.build())
        counted = dataclasses.astuple(program.expected)
        found = (
            taken.peak_bytes,
            taken.total_bytes,
            taken.allocations,
            taken.returned_bytes,
            taken.retained_bytes,
            taken.collected_bytes,
        )
        verdict = "equal" if counted == found else f"DIFFERENT: {counted}"
        rows.append((program.name, program.why, *found, verdict))
    head = (
        "program",
        "what is counted",
        "peak B",
        "total B",
        "blocks",
        "returned B",
        "retained B",
        "collected B",
        "hand",
    )
    return table(head, rows)


def against_memray(preset: str) -> str:
    """Allocator events beside memray, and what only memray sees."""
    try:
        import memray  # noqa: F401
    except ImportError:
        return "memray is not installed (it needs Linux or macOS)."
    rows = []
    taken = [(name, native.peaks(call)) for name, call in native.operators().items()]
    taken += [(cell.id, native.cell_peaks(cell)) for cell in native.CELLS]
    for name, found in taken:
        rows.append((name, found.events, found.aligned, found.aligned - found.events, found.everything - found.events))
    head = ("call", "events, peak B", "memray, aligned blocks, peak B", "difference B", "outside the allocator B")
    return table(head, rows)


def resident_set(preset: str) -> str:
    """Peak bytes beside the rise of resident memory in a process of its own, three times."""
    cells = (
        Cell("derivative_vector_product", "double_backward", "mlp", 64),
        Cell("derivative_vector_product", "double_backward", "mlp", 2048),
        Cell("derivative_vector_product", "jvp_of_grad", "mlp", 2048),
        Cell("derivative_tensor", "func_hessian", "mlp", 256),
        Cell("derivative_vector_product", "double_backward", "conv_loss", 8, batch=16),
    )
    apart = Host(variables=resident.VARIABLES)
    tasks = [Task(cell, ("resident",), apart, alone=True) for cell in cells for _ in range(3)]
    rises: dict[Cell, list[int]] = {}
    for event in Local().run(tasks):
        if event.row is not None:
            rises.setdefault(event.task.cell, []).append(event.row["metrics"]["peak_rss_bytes"])
    rows = []
    for cell, found in rises.items():
        call = repeatable(Subject(cell).call)
        call()
        peak = trace(call).peak_bytes
        taken, most = ", ".join(f"{rise:,}" for rise in found), max(found)
        rows.append((cell.id, peak, taken, most - peak, resident.unseen(peak, most)))
    return table(("cell", "peak_bytes", "peak_rss_bytes, three processes", "largest excess B", "unseen_bytes"), rows)


def arithmetic(preset: str) -> str:
    """Operations by formula beside hand counts, and Griewank & Walther's bounds."""
    rows: list[Row] = []
    for name in problems.problems():
        try:
            found = operations.operations(name)
        except UnsupportedError as error:
            rows.append((name, "–", "–", "–", "–", "–", "–", error.reason))
            continue
        hand: object = "–" if found.by_hand is None else found.by_hand
        agrees = found.by_hand is None or found.by_hand == found.f
        notes = [] if agrees else ["DIFFERENT from the hand count"]
        notes += [] if found.covered else ["operators without a formula"]
        notes += [] if found.gradient_ratio <= operations.GRADIENT_BOUND else ["gradient over its bound"]
        notes += [] if found.hvp_ratio <= operations.HVP_BOUND else ["HVP over its bound"]
        ratios = (found.gradient_ratio, found.hvp_ratio)
        rows.append((name, hand, found.f, found.gradient, found.hvp, *ratios, "; ".join(notes) or "holds"))
    spec = operations.SPEC
    head = ("problem", "f by hand", "f", "gradient", "HVP", "gradient/f", "HVP/f", "bounds 5 and 10")
    return f"n = {spec.n}, depth {spec.depth}, batch {spec.batch}.\n\n" + table(head, rows)


def processes(preset: str) -> str:
    """Every deterministic metric of every cell in two fresh processes."""
    cells = every_cell_of(preset)
    ours = determinism.fresh(cells, hash_seed=1)
    theirs = determinism.fresh(cells[::-1], hash_seed=4242)
    found = determinism.differences(ours, theirs)
    said = [f"- `{cell}`: {', '.join(names)}" for cell, names in found.items()]
    statuses = statistics.multimode(figures["status"] for figures in ours.values())
    return "\n".join(
        [
            f"{len(cells)} cells of the preset `{preset}` (mostly {statuses[0]}), in two processes with hash seeds 1 "
            f"and 4242, the second in the opposite order: **{len(found)} cells differ** in any deterministic metric or "
            "table.",
            *said,
        ]
    )


def threads(preset: str) -> str:
    """Cells whose deterministic metrics change from one thread to two."""
    cells = [cell for cell in cells_of(preset) if cell.threads == 1 and cell.device == "cpu"]
    doubled = [dataclasses.replace(cell, threads=2) for cell in cells]
    one = determinism.fresh(cells, hash_seed=1)
    two = determinism.fresh(doubled, hash_seed=1)
    renamed = {cell.id: two[other.id] for cell, other in zip(cells, doubled, strict=True)}
    found = determinism.differences(one, renamed)
    by_names: dict[str, list[str]] = {}
    for cell, names in found.items():
        by_names.setdefault(", ".join(names), []).append(cell)
    rows = [(len(those), names, f"`{those[0]}`") for names, those in sorted(by_names.items())]
    return f"{len(cells)} cells, 1 thread against 2: {len(found)} differ.\n\n" + (
        table(("cells", "what differs", "for example"), rows) if rows else ""
    )


def warm_up(preset: str) -> str:
    """Whether the second, third and fourth call of a subject give the same figures."""
    differing = []
    measured = 0
    for cell, call in _calls(preset):
        call()
        figures = []
        for _ in range(3):
            figures.append((trace(call), counts.counted(call)[1]))
        measured += 1
        if any(other != figures[0] for other in figures[1:]):
            differing.append(cell.id)
    return "\n".join(
        [
            f"{measured} cells: memory (traced) and nodes of the calls that follow one warm-up call, three times each: "
            f"**{len(differing)} cells differ**.",
            *(f"- `{name}`" for name in differing),
        ]
    )


def cost(preset: str) -> str:
    """CPU milliseconds that each deterministic family takes for a cell, warm-up call included."""
    taken: dict[str, list[float]] = {name: [] for name in measure.DETERMINISTIC}
    plain: list[float] = []
    for cell, call in _calls(preset):
        call()
        start = time.process_time()
        call()
        plain.append(time.process_time() - start)
        subject = Subject(cell)
        for name in measure.DETERMINISTIC:
            start = time.process_time()
            metrics.families()[name].measure(subject)
            taken[name].append(time.process_time() - start)
    rows = []
    for name, seconds in {"one plain call": plain, **taken}.items():
        low = [1e3 * s for s in statistics.quantiles(seconds, n=10)]
        rows.append((name, low[4], low[8], f"{sum(seconds):.1f}"))
    return f"{len(plain)} cells.\n\n" + table(("family", "median ms", "90% ms", "sum s"), rows)


def known_times(preset: str) -> str:
    """Times of busy loops of known length and of an empty call; cells beside torch.utils.benchmark."""
    rows = []
    for found in timing.measured():
        # A busy loop is known absolutely; a cell's two instruments took turns, and its rounds came before.
        ours = found.rounds if found.known is not None else found.single
        against = found.known if found.known is not None else found.torch
        rows.append(
            (
                found.name if found.known is None else f"busy loop of {1e6 * found.known:g} µs",
                f"{1e6 * found.rounds:.3f}",
                f"{1e6 * found.single:.3f}",
                "–" if found.torch is None else f"{1e6 * found.torch:.3f}",
                "–" if against is None else f"{1e6 * (ours - against):+.3f}",
                "–" if against is None else f"{ours / against - 1:+.1%}",
            )
        )
    head = (
        "call",
        "rounds, µs",
        "single calls, µs",
        "torch.utils.benchmark, µs",
        "difference, µs",
        "share",
    )
    return table(head, rows)


def _calls(preset: str) -> Iterable[tuple[Cell, Callable[[], object]]]:
    """The cells that PyTorch can do, with their repeatable calls, threads pinned."""
    for cell in cells_of(preset):
        with torch_state.threads(cell.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = repeatable(Subject(cell).call)
            try:
                call()
            except UnsupportedError:
                continue
            yield cell, call


SECTIONS: dict[str, tuple[str, Callable[[str], str]]] = {
    "memory": ("Memory: programs counted by hand", hand_counted),
    "memray": ("Memory: allocator events against memray", against_memray),
    "resident": ("Memory: resident set", resident_set),
    "operations": ("Operations: formulas against hand counts", arithmetic),
    "warm-up": ("Warm-up", warm_up),
    "processes": ("Determinism: fresh processes", processes),
    "threads": ("Determinism: threads", threads),
    "timing": ("Time: calls of known cost, and a second instrument", known_times),
    "cost": ("Cost of the instruments", cost),
}
"""Name on the command line -> title and function of the preset."""


def run(names: Sequence[str] = (), preset: str = "default") -> str:
    """Run sections of the study.

    Args:
        names: keys of :data:`SECTIONS`; none: all.
        preset: the preset whose cells the sections over cells take.

    Returns:
        Markdown, a third-level heading a section.

    Raises:
        ValueError: no such section; the message lists those that exist.
    """
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        raise ValueError(f"section: got {unknown[0]!r}, expected one of {', '.join(SECTIONS)}")
    torch.set_num_threads(1)
    parts = []
    for name in names or SECTIONS:
        title, section = SECTIONS[name]
        parts.append(f"### {title}\n\n`python -m studies.validation {name}`\n\n{section(preset)}")
    return "\n\n".join(parts) + "\n"

"""Commands that measure: list, run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hograd_bench.cli._common import INTERRUPTED, AsJson, Results, err, fail, first_line, out, print_json, table
from hograd_bench.cli._reading import build_report

AXES = ("n", "depth", "batch", "order", "dtype", "threads")
"""Options that are fields of a sweep."""


def list_(
    as_json: AsJson = False,
    with_peers: Annotated[bool, typer.Option("--peers", help="also the methods of other packages")] = False,
    problem_file: Annotated[list[Path] | None, typer.Option(help="a file that declares further problems")] = None,
) -> None:
    """Name the operators with their methods, the problems, the metrics and the presets."""
    import hograd_core
    from hograd_bench import metrics, peers, plan, problems

    load_problem_files(problem_file)
    catalogue: dict[str, Any] = {
        "operators": [
            {
                "name": o.name,
                "aliases": o.aliases,
                "inputs": o.inputs,
                "summary": first_line(o.guard.__doc__),
                "methods": [
                    {
                        "name": m.name, "mode": m.mode, "source": m.source, "exact": m.exact,
                        "min_order": m.min_order, "max_order": m.max_order, "options": m.options,
                    }
                    for m in o.methods.values()
                ],
            }
            for o in hograd_core.operators().values()
        ],
        "problems": [
            {"name": p.name, "formula": p.formula, "family": p.family, "sizes": dict(p.sizes), "source": p.source,
             "provides": p.provides}
            for p in problems.problems().values()
        ],
        "metrics": [
            {"name": m.name, "unit": m.unit, "deterministic": m.deterministic, "instrument": m.instrument,
             "description": m.description}
            for m in metrics.metrics().values()
        ],
        "presets": {name: table["description"] for name, table in plan.load_presets().items()},
    }  # fmt: skip
    if with_peers:
        catalogue["peers"] = [
            {"name": p.name, "distribution": p.distribution, "version": p.version, "absence": p.absence, "home": p.home,
             "framework": p.framework, "requires": p.requires,
             "methods": [{"operator": m.operator, "name": m.name, "how": m.how, "note": m.note} for m in p.methods]}
            for p in peers.peers().values()
        ]  # fmt: skip
    if as_json:
        print_json(catalogue)
        return
    methods = ((o, ", ".join(m["name"] for m in o["methods"])) for o in catalogue["operators"])
    out.print(
        table(
            "operator", "methods", "computes", title="Operators",
            rows=(
                (", ".join([o["name"], *(f"{a} (order {k})" for a, k in o["aliases"].items())]), named, o["summary"])
                for o, named in methods
            ),
        )
    )  # fmt: skip
    found = ((p["name"], p["family"], ", ".join(p["sizes"]), p["formula"]) for p in catalogue["problems"])
    out.print(table("problem", "family", "sizes", "f", title="Problems", rows=found))
    known = (
        (m["name"], m["unit"], "exact" if m["deterministic"] else "noisy", m["description"])
        for m in catalogue["metrics"]
    )
    out.print(table("metric", "unit", "kind", "what", title="Metrics", rows=known))
    if with_peers:
        theirs = (
            (p["distribution"], p["version"] or "not installed", m["operator"], m["name"], m["how"])
            for p in catalogue["peers"]
            for m in p["methods"]
        )
        out.print(table("package", "version", "operator", "method", "how", title="Peers", rows=theirs))
    presets = catalogue["presets"].items()
    out.print(table("preset", "for", title="Presets (hograd run --preset NAME)", rows=presets))


_SELECTING = (
    "preset", "cell", "only", "problem", "problem_file", "operator", "method", *AXES, "device", "timed",
    "memory_budget",
)  # fmt: skip
"""Options that say what to measure."""
_LIMITING = ("workers", "on", "address", "isolate", "cell_timeout", "memory_limit", "resident")
"""Options that say how; a resumed run may be given others."""


def run(
    context: typer.Context,
    preset: Annotated[str, typer.Option(help="which cells to measure; `hograd list` names the presets")] = "default",
    cell: Annotated[list[str] | None, typer.Option(help="measure this cell (its id) instead; repeatable")] = None,
    only: Annotated[
        str, typer.Option("--only", "-k", help="keep an operator's cells (its name or alias), or ids with this text")
    ] = "",
    problem: Annotated[
        list[str] | None, typer.Option(help="sweep this problem instead of the preset's own; repeatable")
    ] = None,
    problem_file: Annotated[
        list[Path] | None, typer.Option(help="a file of yours that declares problems; sweeps these instead")
    ] = None,
    operator: Annotated[
        list[str] | None, typer.Option(help="sweep this operator instead of the preset's, e.g. hvp; repeatable")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="only this method; repeatable")] = None,
    n: Annotated[str, typer.Option(help="sizes instead of the preset's, e.g. 8,16,32")] = "",
    depth: Annotated[str, typer.Option(help="depths, likewise")] = "",
    batch: Annotated[str, typer.Option(help="batch sizes, likewise")] = "",
    order: Annotated[str, typer.Option(help="derivative orders, likewise")] = "",
    dtype: Annotated[str, typer.Option(help="dtypes, likewise, e.g. float32,float64")] = "",
    threads: Annotated[str, typer.Option(help="thread counts, likewise")] = "",
    device: Annotated[str | None, typer.Option(help="measure the cells on this device: cpu or cuda")] = None,
    timed: Annotated[bool, typer.Option("--timed/--untimed", help="take times, or exact figures alone")] = True,
    results: Results = Path("results"),
    reports: Annotated[Path, typer.Option(help="folder of the reports")] = Path("reports"),
    report: Annotated[bool, typer.Option("--report", help="build the HTML report afterwards")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the newest run of this machine, as it was asked for")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="processes at once (on Ray: on each host, else as many as it has CPUs); cells that are timed run one "
            "at a time, beside no other",
        ),
    ] = None,
    on: Annotated[str, typer.Option(help="where cells run: local, or ray (pip install 'hograd\\[ray]')")] = "local",
    address: Annotated[
        str | None, typer.Option(help="with --on ray: a running cluster, e.g. auto or 10.0.0.1:6379; else one here")
    ] = None,
    isolate: Annotated[str, typer.Option(help="a process of its own for: auto (large cells), always, never")] = "auto",
    cell_timeout: Annotated[float, typer.Option(help="seconds after which a cell is stopped")] = 120.0,
    memory_limit: Annotated[float | None, typer.Option(help="GiB that a process may take (Linux)")] = None,
    memory_budget: Annotated[
        float, typer.Option(help="GiB: cells whose result alone is larger are skipped with that reason")
    ] = 1.0,
    resident: Annotated[
        bool, typer.Option("--resident", help="also peak resident memory, in a process a cell (slow)")
    ] = False,
    list_cells: Annotated[bool, typer.Option("--list-cells", help="print the cells' ids and stop")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a preset's cells, or those you name; append a row for each to results/.

    Each result is checked against float64 truth before it is measured. Ctrl-C keeps every finished row;
    `hograd run --resume` goes on from there. Exit code 1: no cell came out ok.

    Your own function, at sizes of your own: `hograd run --problem-file mine.py --operator hvp --n 8,16,24,32`.
    """
    from hograd_bench import engine
    from hograd_bench import run as running

    given = {name: value for name, value in context.params.items() if name in (*_SELECTING, *_LIMITING)}
    try:
        if resume:
            given = _as_recorded(context, running.recorded(results, given["on"]).get("asked"), given)
        checked = _checked(given)
        load_problem_files(checked["problem_file"])
        asked = _asked(checked)
        plans = running.planned(asked)
    except running.RunError as error:
        raise fail(str(error), 1) from None
    except ValueError as error:
        raise fail(str(error)) from None
    if not plans:
        raise fail(f"no cell to measure: nothing in {_source(asked)} is selected by {asked.only!r}")
    if list_cells:
        typer.echo("\n".join(p.cell.id for p in plans))
        return
    memory = int(checked["memory_limit"] * 2**30) if checked["memory_limit"] else None
    limits, workers = engine.Limits(checked["cell_timeout"], memory), checked["workers"]
    options: dict[str, Any] = {
        "isolate": checked["isolate"], "resident": checked["resident"], "resume": resume,
        "problem_files": [Path(file) for file in checked["problem_file"]], "record": {"asked": _json_ready(given)},
        "console": err,
    }  # fmt: skip
    try:
        if checked["on"] == "ray":
            with engine.Cluster(checked["address"], workers, limits) as cluster:
                outcomes = running.everywhere(plans, results, cluster, **options)
        else:
            outcomes = [running.run(plans, results, engine.Local(workers or 1, limits), **options)]
    except (running.RunError, engine.EngineError) as error:
        raise fail(str(error), 1) from None
    if as_json:
        print_json([row for outcome in outcomes for row in outcome.rows()])
    else:
        for outcome in outcomes:
            outcome.print(out)
    for outcome in outcomes:
        if outcome.interrupted:
            where = "" if results == Path("results") else f" --results {shlex.quote(str(results))}"
            err.print(f"hograd: interrupted; {outcome.finished} rows are kept in {outcome.path}. Go on with: hograd run"
                      f"{where} --resume", markup=False, soft_wrap=True)  # fmt: skip
    if any(outcome.interrupted for outcome in outcomes):
        raise typer.Exit(INTERRUPTED)
    if report:
        build_report(results, reports)
    ended = [status for outcome in outcomes for status in outcome.ended.values()]
    if ended and "ok" not in ended:
        raise fail("no cell came out ok; the reasons are above and in the rows", 1)


def _json_ready(given: dict[str, Any]) -> dict[str, Any]:
    """The options as they can be written down; files by their absolute paths."""
    files = [str(Path(file).resolve()) for file in given["problem_file"] or []]
    return {**{name: value for name, value in given.items() if value not in (None, [], "")}, "problem_file": files}


def _as_recorded(context: typer.Context, then: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    """The options that a run was started with, and those limits that are given now.

    Raises:
        ValueError: other cells are asked for than the run's.
    """
    if then is None:  # of a version that did not write them down
        return now
    said = [name for name in now if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]
    written = _json_ready(now)
    for name in said:
        if name in _SELECTING and written.get(name) != then.get(name):
            raise ValueError(
                f"--{name.replace('_', '-')}: got {written.get(name)!r}, but the run that --resume goes on with was "
                f"asked for {then.get(name)!r}; leave it out, or start a run of its own without --resume"
            )
    none = {name: [] if isinstance(value, list) else value for name, value in _unset(context).items()}
    return {**none, **then, **{name: now[name] for name in said if name in _LIMITING}}


def _unset(context: typer.Context) -> dict[str, Any]:
    """The options' defaults."""
    return {p.name: p.get_default(context) for p in context.command.params if p.name in (*_SELECTING, *_LIMITING)}


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """The options after a look at those that must make sense.

    Raises:
        ValueError: one does not.
    """
    if given["isolate"] not in ("auto", "always", "never"):
        raise ValueError(f"--isolate: got {given['isolate']!r}, expected auto, always or never")
    for name, unit in (("cell_timeout", "seconds"), ("memory_limit", "GiB"), ("memory_budget", "GiB")):
        if given[name] is not None and not (given[name] > 0 and math.isfinite(given[name])):
            raise ValueError(f"--{name.replace('_', '-')}: got {given[name]:g}, expected {unit} above 0")
    if given["on"] not in ("local", "ray"):
        raise ValueError(f"--on: got {given['on']!r}, expected local or ray")
    if given["address"] is not None and given["on"] != "ray":
        raise ValueError(f"--address: got {given['address']!r} without --on ray; add it, or leave the address out")
    if given["device"] not in (None, "cpu", "cuda"):
        raise ValueError(f"--device: got {given['device']!r}, expected cpu or cuda")
    return {**given, "problem_file": given["problem_file"] or []}


def _asked(given: dict[str, Any]) -> Any:
    """What the options ask for."""
    from hograd_bench import problems, run

    axes: dict[str, tuple[Any, ...]] = {}
    for name in AXES:
        words = [word.strip() for word in (given[name] or "").split(",") if word.strip()]
        if name != "dtype" and not all(word.isdecimal() and int(word) > 0 for word in words):
            raise ValueError(f"--{name}: got {given[name]!r}, expected integers from 1, as in 8,16,32")
        axes[name] = tuple(words if name == "dtype" else map(int, words))
    files = [Path(file) for file in given["problem_file"]]
    return run.Asked(
        given["preset"],
        tuple(given["cell"] or ()),
        tuple(given["operator"] or ()),
        tuple(given["method"] or ()),
        (*(given["problem"] or ()), *(problems.of_files(files) if not given["cell"] else ())),
        tuple(map(str, files)),
        {name: values for name, values in axes.items() if values},
        given["only"] or "",
        given["device"],
        int(given["memory_budget"] * 2**30),
        given["timed"],
    )


def _source(asked: Any) -> str:
    return "the cells named" if asked.cells else f"preset {asked.preset!r}" if not asked.operators else "these sweeps"


def load_problem_files(paths: Sequence[Path | str] | None) -> None:
    """Register what the files declare."""
    from hograd_bench import problems

    for path in paths or []:
        try:
            problems.load_file(path)
        except (OSError, ValueError) as error:
            raise fail(str(error)) from None

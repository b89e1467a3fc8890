"""Commands that measure: list, run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hograd_bench.cli import _asking as asking
from hograd_bench.cli._common import INTERRUPTED, AsJson, Results, err, fail, first_line, out, print_json, table
from hograd_bench.cli._reading import build_report
from hograd_bench.waiting import signs_of_life


def list_(
    as_json: AsJson = False,
    with_peers: Annotated[bool, typer.Option("--peers", help="also the methods of other packages")] = False,
    problem_file: Annotated[list[Path] | None, typer.Option(help="a file that declares further problems")] = None,
) -> None:
    """Name the operators with their methods, the problems, the metrics and the presets."""
    import hograd_core
    from hograd_bench import metrics, peers, plan, problems
    from hograd_bench import run as running

    try:
        with running.loaded([str(file) for file in problem_file or ()]):
            pass
    except ValueError as error:
        raise fail(str(error)) from None
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
    n: Annotated[str | None, typer.Option(help="sizes instead of the preset's, e.g. 8,16,32")] = None,
    depth: Annotated[str | None, typer.Option(help="depths, likewise")] = None,
    batch: Annotated[str | None, typer.Option(help="batch sizes, likewise")] = None,
    order: Annotated[str | None, typer.Option(help="derivative orders, likewise")] = None,
    dtype: Annotated[str | None, typer.Option(help="dtypes, likewise, e.g. float32,float64")] = None,
    threads: Annotated[str | None, typer.Option(help="thread counts, likewise")] = None,
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
    from hograd_bench import engine, store
    from hograd_bench import run as running

    given = {name: context.params[name] for name in (*asking.SELECTING, *asking.LIMITING)}
    try:
        if resume:
            given = asking.as_recorded(context, running.recorded(results, on).get("asked"), given)
        checked = asking.checked(given)
        asked = asking.asked_by(checked)
        with signs_of_life(err, lambda: "planning, and asking the problems how large x is …"):
            plans = running.planned(asked)
    except running.RunError as error:
        raise fail(str(error), 1) from None
    except ValueError as error:
        raise fail(str(error)) from None
    if not plans:
        raise fail(f"no cell to measure: nothing in {asking.source(asked)} is selected by {asked.only!r}")
    if list_cells:
        typer.echo("\n".join(p.cell.id for p in plans))
        return
    memory = int(checked["memory_limit"] * 2**30) if checked["memory_limit"] else None
    limits, at_once = engine.Limits(checked["cell_timeout"], memory), checked["workers"]
    options: dict[str, Any] = {
        "isolate": checked["isolate"], "resident": checked["resident"], "resume": resume,
        "problem_files": [Path(file) for file in checked["problem_file"]],
        "record": {"asked": asking.json_ready(given)}, "console": err,
    }  # fmt: skip
    try:
        if checked["on"] == "ray":
            with engine.Cluster(checked["address"], at_once, limits) as cluster:
                outcomes = running.everywhere(plans, results, cluster, **options)
        else:
            outcomes = [running.run(plans, results, engine.Local(at_once or 1, limits), **options)]
        if as_json:
            print_json([row for outcome in outcomes for row in outcome.rows()])
        else:
            for outcome in outcomes:
                outcome.print(out)
        ended = {status for outcome in outcomes for status in outcome.frame["status"]}
    except (running.RunError, engine.EngineError, store.StoreError) as error:
        raise fail(str(error), 1) from None
    stopped = [outcome for outcome in outcomes if outcome.interrupted]
    if stopped:
        kept = " and ".join(f"{outcome.finished} rows are kept in {outcome.path}" for outcome in stopped)
        err.print(f"hograd: interrupted; {kept}. Go on with: {asking.going_on(context)}", markup=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED)
    if report:
        build_report(results, reports)
    if ended and "ok" not in ended:
        raise fail("no cell came out ok; the reasons are above and in the rows", 1)

"""Commands that measure: list, run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hograd_bench.cli._common import INTERRUPTED, AsJson, Results, err, fail, first_line, out, print_json
from hograd_bench.cli._reading import build_report


def list_(
    as_json: AsJson = False,
    with_peers: Annotated[bool, typer.Option("--peers", help="also the methods of other packages")] = False,
    problem_file: Annotated[list[Path] | None, typer.Option(help="a file that declares further problems")] = None,
) -> None:
    """Name the operators with their methods, the problems, the metrics and the presets."""
    import hograd_core
    from hograd_bench import metrics, peers, plan, problems

    _load_problem_files(problem_file)
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
    table = Table("operator", "methods", "computes", title="Operators")
    for o in catalogue["operators"]:
        names = ", ".join([o["name"], *(f"{a} (order {k})" for a, k in o["aliases"].items())])
        table.add_row(names, ", ".join(m["name"] for m in o["methods"]), o["summary"])
    out.print(table)
    table = Table("problem", "family", "sizes", "f", title="Problems")
    for p in catalogue["problems"]:
        table.add_row(p["name"], p["family"], ", ".join(p["sizes"]), p["formula"])
    out.print(table)
    table = Table("metric", "unit", "kind", "what", title="Metrics")
    for m in catalogue["metrics"]:
        table.add_row(m["name"], m["unit"], "exact" if m["deterministic"] else "noisy", m["description"])
    out.print(table)
    if with_peers:
        table = Table("package", "version", "operator", "method", "how", title="Peers")
        for p in catalogue["peers"]:
            for m in p["methods"]:
                table.add_row(p["distribution"], p["version"] or "not installed", m["operator"], m["name"], m["how"])
        out.print(table)
    table = Table("preset", "for", title="Presets (hograd run --preset NAME)")
    for name, description in catalogue["presets"].items():
        table.add_row(name, description)
    out.print(table)


def run(
    preset: Annotated[str, typer.Option(help="which cells to measure; `hograd list` names the presets")] = "default",
    cell: Annotated[list[str] | None, typer.Option(help="measure this cell (its id) instead; repeatable")] = None,
    only: Annotated[str, typer.Option("--only", "-k", help="keep cells whose id contains this text")] = "",
    problem: Annotated[
        list[str] | None, typer.Option(help="sweep this problem instead of the preset's own; repeatable")
    ] = None,
    problem_file: Annotated[
        list[Path] | None, typer.Option(help="a file of yours that declares problems; sweeps these instead")
    ] = None,
    device: Annotated[str | None, typer.Option(help="measure the preset's cells on this device: cpu or cuda")] = None,
    results: Results = Path("results"),
    reports: Annotated[Path, typer.Option(help="folder of the reports")] = Path("reports"),
    report: Annotated[bool, typer.Option("--report", help="build the HTML report afterwards")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="continue the newest run of this machine")] = False,
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
    """Measure a preset's cells, or the cells you name; append a row for each to results/.

    Each result is checked against float64 truth before it is measured. Ctrl-C keeps every finished row;
    `--resume` goes on from there.
    """
    from hograd_bench import engine
    from hograd_bench import run as running

    sweep_on = [*(problem or []), *_load_problem_files(problem_file)]
    if on not in ("local", "ray"):
        raise fail(f"--on: got {on!r}, expected local or ray")
    if address is not None and on != "ray":
        raise fail(f"--address: got {address!r} without --on ray; add it, or leave the address out")
    if isolate not in ("auto", "always", "never"):
        raise fail(f"--isolate: got {isolate!r}, expected auto, always or never")
    try:
        plans = running.planned(preset, cell or [], sweep_on, only, device, int(memory_budget * 2**30))
    except ValueError as error:
        raise fail(str(error)) from None
    if not plans:
        raise fail(f"no cell to measure: no id in preset {preset!r} contains {only!r}")
    if list_cells:
        typer.echo("\n".join(p.cell.id for p in plans))
        return
    memory = int(memory_limit * 2**30) if memory_limit else None
    limits = engine.Limits(cell_timeout, memory)
    options: dict[str, Any] = {
        "isolate": isolate, "resident": resident, "resume": resume, "problem_files": problem_file or [], "console": err
    }  # fmt: skip
    try:
        if on == "ray":
            with engine.Cluster(address, workers, limits) as cluster:
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
            err.print(f"hograd: interrupted; {outcome.finished} rows are kept in {outcome.path}. Go on with: hograd "
                      f"run --preset {preset} --resume", markup=False)  # fmt: skip
    if any(outcome.interrupted for outcome in outcomes):
        raise typer.Exit(INTERRUPTED)
    if report:
        build_report(results, reports)


def _load_problem_files(paths: list[Path] | None) -> list[str]:
    """Names of the problems that the files declare."""
    from hograd_bench import problems

    names: list[str] = []
    for path in paths or []:
        try:
            names += problems.load_file(path)
        except (OSError, ValueError) as error:
            raise fail(str(error)) from None
    return names

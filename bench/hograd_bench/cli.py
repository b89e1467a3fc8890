"""The command `hograd`. Each command reads its arguments, calls the room that does the work, and prints.

Commands that read results only (report, compare, claims, law) import no kernel.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    name="hograd",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Benchmarks of higher-order derivatives in PyTorch: which method, how long, how many bytes, how it grows.

    Start with `hograd run --preset smoke --report`, then open reports/index.html.
    `hograd list` names what can be measured; `docs/extending.md` says how to add a function of your own.
    """,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

USAGE = 2
INTERRUPTED = 130

Results = Annotated[Path, typer.Option(help="folder of the results", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs instead of tables")]


def fail(message: str, code: int = USAGE) -> typer.Exit:
    """Print one clear sentence to stderr; raise what this returns."""
    err.print(f"hograd: {message}", style="red", markup=False)
    return typer.Exit(code)


def print_json(data: Any) -> None:
    """JSON on stdout, NaN-free."""
    typer.echo(json.dumps(data, allow_nan=False, ensure_ascii=False, indent=2))


@app.command("list")
def list_(
    as_json: AsJson = False,
    problem_file: Annotated[list[Path] | None, typer.Option(help="a file that declares further problems")] = None,
) -> None:
    """Name the operators with their methods, the problems, the metrics and the presets."""
    import hograd_core
    from hograd_bench import metrics, plan, problems

    _load_problem_files(problem_file)
    catalogue: dict[str, Any] = {
        "operators": [
            {
                "name": o.name,
                "aliases": o.aliases,
                "inputs": o.inputs,
                "summary": _first_line(o.guard.__doc__),
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
    table = Table("preset", "for", title="Presets (hograd run --preset NAME)")
    for name, description in catalogue["presets"].items():
        table.add_row(name, description)
    out.print(table)


@app.command()
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
    isolate: Annotated[str, typer.Option(help="a process of its own for: auto (large cells), always, never")] = "auto",
    cell_timeout: Annotated[float, typer.Option(help="seconds after which a cell is stopped")] = 120.0,
    memory_limit: Annotated[float | None, typer.Option(help="GiB that a worker may take (Linux)")] = None,
    memory_budget: Annotated[
        float, typer.Option(help="GiB: cells whose result alone is larger are skipped with that reason")
    ] = 1.0,
    list_cells: Annotated[bool, typer.Option("--list-cells", help="print the cells' ids and stop")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a preset's cells, or the cells you name; append a row for each to results/.

    Each result is checked against float64 truth before it is measured. Ctrl-C keeps every finished row;
    `--resume` goes on from there.
    """
    from hograd_bench import run as running

    on = [*(problem or []), *_load_problem_files(problem_file)]
    if isolate not in ("auto", "always", "never"):
        raise fail(f"--isolate: got {isolate!r}, expected auto, always or never")
    try:
        plans = running.planned(preset, cell or [], on, only, device, int(memory_budget * 2**30))
    except ValueError as error:
        raise fail(str(error)) from None
    if not plans:
        raise fail(f"no cell to measure: no id in preset {preset!r} contains {only!r}")
    if list_cells:
        typer.echo("\n".join(p.cell.id for p in plans))
        return
    limits = running.Limits(cell_timeout, int(memory_limit * 2**30) if memory_limit else None, isolate)  # type: ignore[arg-type]
    try:
        outcome = running.run(plans, results, limits, resume=resume, problem_files=problem_file or [], console=err)
    except running.RunError as error:
        raise fail(str(error), 1) from None
    if as_json:
        print_json(outcome.rows())
    else:
        outcome.print(out)
    if outcome.interrupted:
        err.print(f"hograd: interrupted; {outcome.finished} rows are kept in {outcome.path}. Go on with: hograd run "
                  f"--preset {preset} --resume", markup=False)  # fmt: skip
        raise typer.Exit(INTERRUPTED)
    if report:
        _build_report(results, reports)


@app.command()
def report(
    results: Results = Path("results"),
    reports: Annotated[Path, typer.Option(help="folder to write to")] = Path("reports"),
) -> None:
    """Build reports/index.html, one self-contained file, from results/."""
    _build_report(results, reports)


def main() -> None:
    """Entry point; a closed pipe (`hograd list | head`) is no error."""
    try:
        app()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


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


def _build_report(results: Path, reports: Path) -> None:
    from hograd_bench import report as reporting

    try:
        built = reporting.build(results, reports)
    except reporting.ReportError as error:
        raise fail(str(error), 1) from None
    built.print(out)


if __name__ == "__main__":
    main()

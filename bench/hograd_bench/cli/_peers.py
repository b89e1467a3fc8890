"""The command `hograd peers`: other packages beside hograd's methods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from hograd_bench.cli._common import AsJson, Results, err, fail, out, print_json


def peers(
    results: Results = Path("results"),
    run: Annotated[bool, typer.Option("--run", help="first measure, and write to --results; minutes")] = False,
    only: Annotated[str, typer.Option("--only", "-k", help="with --run: contests whose id contains this text")] = "",
    processes: Annotated[int, typer.Option(help="with --run: fresh processes of each package")] = 2,
    cpu: Annotated[int | None, typer.Option(help="with --run: bind all processes to this CPU")] = None,
    installation: Annotated[
        Path | None, typer.Option(help="with --run: JSON of package -> why it could not be installed")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="write the page to this Markdown file")] = None,
    requirements: Annotated[
        bool, typer.Option("--requirements", help="print, as JSON, what pip installs for each package, and stop")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Time, memory and accuracy of other packages beside hograd's methods, on the same functions.

    Reads the newest measurement under --results; `nox -s peers` builds an environment with the packages and measures.
    """
    from hograd_bench import peers as room

    if requirements:
        print_json({peer.name: list(peer.requires) for peer in room.peers().values() if peer.requires})
        return
    if not run and (only or cpu is not None or installation is not None):
        raise fail("--only, --cpu, --installation: say how to measure; give --run too")
    if run:
        _measure(results, only, processes, cpu, installation)
    source, document = _newest(results)
    if markdown is not None:
        from hograd_bench.peers import _markdown

        shown = source.relative_to(Path.cwd()) if source.is_absolute() and source.is_relative_to(Path.cwd()) else source
        markdown.write_text(_markdown.render(document, shown.as_posix()), encoding="utf-8")
    if as_json:
        print_json(document)
        return
    _show(document)


def _measure(results: Path, only: str, processes: int, cpu: int | None, installation: Path | None) -> None:
    from hograd_bench import store
    from hograd_bench.peers import _measuring

    failures: dict[str, str] = {}
    if installation is not None:
        try:
            read = json.loads(installation.read_text(encoding="utf-8"))
            failures = {str(name): str(why) for name, why in read.items()}
        except (OSError, ValueError, AttributeError) as error:
            raise fail(f"--installation: {installation} is no JSON object of package -> reason: {error}") from None
    try:
        document = _measuring.measure(
            only, processes, cpu, failures, lambda line: err.print(line, markup=False, soft_wrap=True)
        )
        path = _measuring.save(document, results)
    except (ValueError, OSError, store.StoreError) as error:
        raise fail(str(error), 1) from None
    err.print(f"written to {path}", markup=False, soft_wrap=True)


def _newest(results: Path) -> tuple[Path, Any]:
    from hograd_bench import store
    from hograd_bench.peers import _document
    from hograd_bench.schema import SchemaError

    try:
        source, found = store.newest_study(results, _document.KIND)
        return source, _document.validate(found)
    except store.StoreError as error:
        raise fail(str(error), 1) from None
    except SchemaError as error:
        raise fail(f"{source}: {error}", 1) from None


def _show(document: Any) -> None:
    from hograd_bench import units
    from hograd_bench.peers import _findings
    from hograd_bench.report import text

    for contest, rows in _findings.by_contest(document["rows"]).items():
        table = Table("package", "how", "min", "error", "peak", "status", title=_findings.title(contest))
        for row in rows:
            m = row["metrics"]
            table.add_row(
                text.clean(row["peer"]), text.clean(row["way"], 80),
                units.seconds(m["seconds_min"]) if "seconds_min" in m else "",
                f"{m['relative_error']:.1e}" if "relative_error" in m else "",
                units.binary(m["peak_bytes"]) if "peak_bytes" in m else "",
                row["status"] if row["status"] == "ok" else f"{row['status']}: {text.clean(row['reason'], 100)}",
            )  # fmt: skip
        out.print(table)
    for line in _findings.scores(document):
        out.print(line, markup=False)

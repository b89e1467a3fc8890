"""The command `hograd peers`: other packages beside hograd's methods."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hograd_bench.cli._common import AsJson, Results, fail, out, print_json, write_text


def peers(
    results: Results = Path("results"),
    markdown: Annotated[Path | None, typer.Option(help="write the page to this Markdown file")] = None,
    as_json: AsJson = False,
) -> None:
    """Time, memory and accuracy of other packages beside hograd's methods, on the same functions.

    Reads the newest run of peers under --results. `nox -s peers` builds an environment with the packages and measures:
    `hograd run --preset peers`.
    """
    from hograd_bench import store
    from hograd_bench.report import contests, text

    try:
        source = newest_run(results)
        if source is None:
            raise fail(f"{results}: no run of peers; make one with `nox -s peers`", 1)
        loaded = store.load(source)
    except store.StoreError as error:
        raise fail(str(error), 1) from None
    (environment,) = loaded.environments.values()
    if markdown is not None:
        here = Path.cwd()
        shown = source.relative_to(here) if source.is_absolute() and source.is_relative_to(here) else source
        write_text("--markdown", markdown, contests.page(loaded.rows, environment, shown.as_posix()))
    frame = contests.contestants(loaded.rows, environment)
    if as_json:
        names = [*contests.SAME, "method", "peer", "how", "note", "status", "reason", "spread", *contests.NUMBERS]
        print_json(json.loads(frame[names].to_json(orient="records")))
        return
    shown_columns = [contests.HEAD.index(name) for name in ("package", "how", "gradients", "min", "error", "note")]
    for one in contests.contests(frame):
        found = Table(*(contests.HEAD[i] for i in shown_columns), title=text.clean(contests.title(one[0]), 200))
        for line in contests.lines_of(one):
            found.add_row(*(text.clean(line[i], 100) for i in shown_columns))
        out.print(found)
    for score in contests.scores(frame):
        out.print(score, markup=False)


def newest_run(results: Path) -> Path | None:
    """The newest run under a results root whose environment tells of peers; None: there is none."""
    from hograd_bench import store
    from hograd_bench.report import contests

    for folder in sorted(store.run_folders(results), key=lambda folder: folder.name, reverse=True):
        with contextlib.suppress(store.StoreError):  # a damaged run is none of peers
            if contests.peers_of(store.environment_of(folder)):
                return folder
    return None

"""What the commands share: consoles, exit codes, options, one way to fail."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hograd_bench.schema import visible


def _console(stderr: bool) -> Console:
    """A console that prints names as they are: no emoji, and whole where no terminal would wrap them."""
    to_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, emoji=False, width=None if to_terminal else _WIDE)


_WIDE = 10_000
out, err = _console(stderr=False), _console(stderr=True)

USAGE = 2
INTERRUPTED = 130

Results = Annotated[Path, typer.Option(help="folder of the results", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs instead of tables")]


_CHOICE = re.compile(r"got '([^']+)', expected (?:one|some) of ([\w, -]+)")


def fail(message: str, code: int = USAGE) -> typer.Exit:
    """Print one clear sentence to stderr, with the nearest of the names that it offers; raise what this returns."""
    err.print(f"hograd: {visible(message)}{_nearest(message)}", style="red", markup=False, soft_wrap=True)
    return typer.Exit(code)


def _nearest(message: str) -> str:
    """``; did you mean hvp?`` where a name was given that is not among those that there are, yet nearly."""
    if (offered := _CHOICE.search(message)) is None:
        return ""
    names = {name.lower(): name for name in offered[2].split(", ")}
    near = difflib.get_close_matches(offered[1].lower(), names, n=1)
    return f"; did you mean {names[near[0]]}?" if near else ""


def print_json(data: Any) -> None:
    """JSON on stdout, NaN-free; escaped where the locale could not write it all."""
    escaped = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    typer.echo(json.dumps(data, allow_nan=False, ensure_ascii=escaped, indent=2))


def write_text(option: str, path: Path, text: str) -> None:
    """Write a file that an option names, whole or not at all; where that fails, one sentence says so."""
    from hograd_bench.store import replacing

    stream = path.exists() and not path.is_file()  # /dev/stdout: nothing takes its place
    try:
        with contextlib.nullcontext(path) if stream else replacing(path) as staging:
            staging.write_text(text, encoding="utf-8")
    except OSError as error:
        raise fail(f"{option}: {path} cannot be written: {error.strerror or error}; name another file", 1) from None


def table(*columns: str, title: str, rows: Iterable[Iterable[str]]) -> Table:
    """A table of texts as they are: no markup, nothing that a terminal obeys."""
    made = Table(*columns, title=title)
    for row in rows:
        made.add_row(*(Text(visible(value)) for value in row))
    return made


def first_line(text: str | None) -> str:
    """The first line of a docstring, without the marks that only Sphinx reads."""
    line = (text or "").strip().partition("\n")[0]
    return re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", lambda found: found[1] or found[2], line)

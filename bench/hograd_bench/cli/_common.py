"""What the commands share: consoles, exit codes, options, one way to fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

USAGE = 2
INTERRUPTED = 130

Results = Annotated[Path, typer.Option(help="folder of the results", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs instead of tables")]


def fail(message: str, code: int = USAGE) -> typer.Exit:
    """Print one clear sentence to stderr; raise what this returns."""
    err.print(f"hograd: {message}", style="red", markup=False, soft_wrap=True)
    return typer.Exit(code)


def print_json(data: Any) -> None:
    """JSON on stdout, NaN-free."""
    typer.echo(json.dumps(data, allow_nan=False, ensure_ascii=False, indent=2))


def first_line(text: str | None) -> str:
    """The first line of a docstring."""
    return (text or "").strip().partition("\n")[0]

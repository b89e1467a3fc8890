"""The command `hograd`. Each command reads its arguments, calls the room that does the work, and prints."""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

import typer

from hograd_bench.cli import _advise, _env, _measuring, _peers, _reading
from hograd_bench.gate.cli import gate

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
app.command("advise")(_advise.advise)
app.command("list")(_measuring.list_)
for _command in (
    _measuring.run,
    _reading.report,
    _reading.compare,
    _reading.claims,
    _reading.law,
    gate,
    _peers.peers,
    _env.env,
):
    app.command()(_command)


def main() -> None:
    """Entry point; a closed pipe (`hograd list | head`) is no error."""
    try:
        app()
    except BrokenPipeError:
        _give_up()
    except OSError as error:  # a full disk behind a redirected stdout; what rooms read and write, they explain
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        sys.stderr.write(f"hograd: cannot write the output: {error.strerror}\n")
        _give_up()


def _give_up() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)

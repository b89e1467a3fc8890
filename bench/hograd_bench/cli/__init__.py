"""The command `hograd`. Each command reads its arguments, calls the room that does the work, and prints."""

from __future__ import annotations

import errno
import gc
import io
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from hograd_bench.cli import _advise, _env, _measuring, _peers, _reading
from hograd_bench.gate.cli import gate

app = typer.Typer(
    name="hograd",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Benchmarks of higher-order derivatives in PyTorch: which method, how long, how many bytes, how it grows.

    For a function of yours: `hograd advise my_loss.py:f --shape 200` prints the calls to make.
    For all methods on many functions: `hograd run --preset smoke --report`, then open reports/index.html.
    `hograd list` names what can be measured; `docs/extending.md` says how to add a function of your own.
    """,
)
EXAMPLES = {
    "advise": ("advise loss.py:f --shape 1000", "advise loss.py:make --n 64 --memory 8GiB --html advice.html"),
    "list": ("list", "list --problem-file mine.py --json"),
    "run": (
        "run --preset smoke --report",
        "run --problem-file mine.py --operator hvp --n 8,16,24,32 --untimed",
        "run --operator hessian --method rows --problem mlp --n 16 --threads 1,2",
        "run --resume",
    ),
    "report": ("report", "report --compare 20260102 latest"),
    "compare": ("compare 20260102 latest", "compare 20260102 latest --deterministic --json"),
    "claims": ("claims", "claims C2 --explain", "claims C5 --run"),
    "law": ("law --operator hvp --method double_backward --problem sin_chain --predict n=100000,depth=64",),
    "gate": ("gate", "gate --base origin/main", "gate --update"),
    "peers": ("peers --json",),
    "env": ("env", "env --json"),
}
"""Command -> what one types after ``hograd``."""
_COMMANDS: dict[str, Callable[..., None]] = {
    "advise": _advise.advise, "list": _measuring.list_, "run": _measuring.run, "report": _reading.report,
    "compare": _reading.compare, "claims": _reading.claims, "law": _reading.law, "gate": gate, "peers": _peers.peers,
    "env": _env.env,
}  # fmt: skip
for _name, _command in _COMMANDS.items():
    app.command(_name, epilog="\n\n".join(["Examples:", *(f"`hograd {line}`" for line in EXAMPLES[_name])]))(_command)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hograd {version('hograd')}, torch {version('torch')}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="print versions and stop")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point; a closed pipe (`hograd list | head`) is no error."""
    gc.set_threshold(100_000)  # a page is made of millions of objects, hardly any of them garbage
    for stream in (sys.stdout, sys.stderr):  # a letter that the locale lacks costs itself, not the command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
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

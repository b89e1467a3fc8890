"""The command `hograd advise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hograd_bench.cli._common import INTERRUPTED, AsJson, err, fail, out, print_json, write_text
from hograd_bench.waiting import signs_of_life

NOTHING = 1


def advise(
    target: Annotated[
        str,
        typer.Argument(
            help="path/to/file.py:name or package.module:name: f (with --shape), or a factory that returns "
            "(f, x), an Example, or (module, loss, inputs, targets)"
        ),
    ],
    shape: Annotated[str | None, typer.Option(help="shape of x, where the name is f itself: 8 or 32,10")] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype of x: float32, float64, ...")] = None,
    device: Annotated[str, typer.Option(help="device of x: cpu or cuda")] = "cpu",
    scale: Annotated[
        str | None, typer.Option(help="the factory's parameter that is its size; n, where it has one")
    ] = None,
    n: Annotated[int | None, typer.Option(min=1, help="its value; the parameter's default where none")] = None,
    at: Annotated[
        list[int] | None, typer.Option(min=1, help="a size to foretell, repeatable; eight times n where none")
    ] = None,
    operator: Annotated[
        list[str] | None,
        typer.Option(
            help="advise on this operator, repeatable; gradient, hvp, hessian_diagonal and hessian where none"
        ),
    ] = None,
    order: Annotated[int | None, typer.Option(min=3, help="also the derivatives of this order")] = None,
    memory: Annotated[str, typer.Option(help="memory budget, as 8GiB; what is free on the device where none")] = "free",
    seconds: Annotated[float, typer.Option(min=2, help="budget of wall time")] = 60.0,
    quick: Annotated[bool, typer.Option("--quick", help="a budget of 10 s: more is foretold, less measured")] = False,
    eager: Annotated[bool, typer.Option("--eager", help="methods as they are: nothing is traced or compiled")] = False,
    html: Annotated[Path | None, typer.Option(help="also write the advice to this HTML file")] = None,
    as_json: AsJson = False,
) -> None:
    """Which call to make for a function of yours: measured on it, held against float64 truth, foretold at other sizes.

    Your code runs in child processes with limits. Exit status 0 when there is a method to take, 1 when there is none
    (the function fails, hangs, dies, or no method is right), 2 for a wrong command.
    """
    from hograd_bench import advise as advising
    from hograd_bench.targets import Request

    if dtype is not None and dtype not in _DTYPES:
        raise fail(f"--dtype: got {dtype!r}, expected one of {', '.join(_DTYPES)}")
    if device not in ("cpu", "cuda"):
        raise fail(f"--device: got {device!r}, expected cpu or cuda")
    request = Request(target, _shape(shape), dtype, device, scale, n)
    budget = min(seconds, advising.QUICK) if quick else seconds
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    try:
        progress = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        bar = progress.add_task("starting", total=1.0)
        with progress if err.is_terminal else signs_of_life(err, lambda: f"{progress.tasks[bar].description} …"):
            advice = advising.advise_by_name(
                request,
                operators=operator or advising.NEEDS,
                order=order,
                memory=memory,
                seconds=budget,
                sizes=at or (),
                **({"preparations": ()} if eager else {}),
                progress=lambda what, gone: progress.update(bar, completed=gone, description=what),
            )
    except ValueError as error:
        raise fail(str(error)) from None
    except KeyboardInterrupt:
        err.print("hograd: interrupted; advice is given at the end alone, and --quick takes ten seconds", markup=False)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(advice.to_json())
    else:
        advising.show(advice, out)
    if html is not None:  # last: what was measured is on the terminal where this fails
        write_text("--html", html, advice.to_html())
    if not advice.given:
        raise typer.Exit(NOTHING)


_DTYPES = ("float64", "float32", "bfloat16", "float16")


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        sizes = tuple(int(part) for part in text.replace("x", ",").rstrip(", ").split(",")) if text.strip() else ()
    except ValueError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise fail(f"--shape: got {text!r}, expected sizes >= 1 such as 8 or 32,10")
    return sizes

"""The options of `hograd run`: looked at, written down with a run, read back when it goes on."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

AXES = ("n", "depth", "batch", "order", "dtype", "threads")
"""Options that are fields of a sweep."""

SELECTING = (
    "preset", "cell", "only", "problem", "problem_file", "operator", "method", *AXES, "device", "timed",
    "memory_budget",
)  # fmt: skip
"""Options that say what to measure."""
LIMITING = ("workers", "on", "address", "isolate", "cell_timeout", "memory_limit", "resident")
"""Options that say how; a resumed run may be given others."""


def json_ready(given: dict[str, Any]) -> dict[str, Any]:
    """The options as they can be written down; files by their absolute paths."""
    files = [str(Path(file).resolve()) for file in given["problem_file"] or []]
    return {**{name: value for name, value in given.items() if value not in (None, [], "")}, "problem_file": files}


def as_recorded(context: typer.Context, then: Any, now: dict[str, Any]) -> dict[str, Any]:
    """The options that a run was started with, and those limits that are given now.

    Raises:
        ValueError: other cells are asked for than the run's, or the run does not say which are its own.
    """
    said = [name for name in now if _is_said(context, name)]
    if not isinstance(then, Mapping):  # a program's, which names its cells elsewhere
        if any(name in SELECTING for name in said):
            return now
        raise ValueError(
            "--resume: the newest run of this machine was started by a program and does not say which cells were "
            "asked for; name them as it does, or start a run of its own without --resume"
        )
    written = json_ready(now)
    for name in said:
        if name in SELECTING and written.get(name) != then.get(name):
            raise ValueError(
                f"--{name.replace('_', '-')}: got {written.get(name)!r}, but the run that --resume goes on with was "
                f"asked for {then.get(name)!r}; leave it out, or start a run of its own without --resume"
            )
    return {**_read_back(context, then), **{name: now[name] for name in said if name in LIMITING}}


def going_on(context: typer.Context) -> str:
    """The command that goes on with what this one began, to be pasted into a shell: what the run itself records aside.

    A run on Ray is looked for there, so that it has to be said again.
    """
    again = [name for name in ("results", "reports", "report", "on", "address", "as_json") if _is_said(context, name)]
    words = ["hograd", "run"]
    for name in again:
        option = next(p for p in context.command.params if p.name == name).opts[0]
        value = context.params[name]
        words += [option] if value is True else [option, str(value)]
    return shlex.join([*words, "--resume"])


def _is_said(context: typer.Context, name: str) -> bool:
    return str(context.get_parameter_source(name)).endswith("COMMANDLINE")


def _read_back(context: typer.Context, then: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they were written down, the others' defaults."""
    found: dict[str, Any] = {}
    for option in context.command.params:
        if option.name in (*SELECTING, *LIMITING):
            written = then.get(option.name)
            try:
                found[option.name] = option.process_value(
                    context, option.get_default(context) if written is None else written
                )
            except typer.BadParameter as error:
                raise ValueError(
                    f"--resume: the newest run of this machine has a damaged environment.json: plan, asked, "
                    f"{option.name}: {error.message}; start a run of its own without --resume"
                ) from None
    return found


def checked(given: dict[str, Any]) -> dict[str, Any]:
    """The options after a look at those that must make sense.

    Raises:
        ValueError: one does not.
    """
    if given["isolate"] not in ("auto", "always", "never"):
        raise ValueError(f"--isolate: got {given['isolate']!r}, expected auto, always or never")
    for name, unit in (("cell_timeout", "seconds"), ("memory_limit", "GiB"), ("memory_budget", "GiB")):
        if given[name] is not None and not (given[name] > 0 and math.isfinite(given[name])):
            raise ValueError(f"--{name.replace('_', '-')}: got {given[name]:g}, expected {unit} above 0")
    if given["on"] not in ("local", "ray"):
        raise ValueError(f"--on: got {given['on']!r}, expected local or ray")
    if given["address"] is not None and given["on"] != "ray":
        raise ValueError(f"--address: got {given['address']!r} without --on ray; add it, or leave the address out")
    if given["device"] not in (None, "cpu", "cuda"):
        raise ValueError(f"--device: got {given['device']!r}, expected cpu or cuda")
    return {**given, "problem_file": given["problem_file"] or []}


def asked_by(given: dict[str, Any]) -> Any:
    """What the options ask for."""
    from hograd_bench import run

    axes: dict[str, tuple[Any, ...]] = {}
    for name in AXES:
        words = [word.strip() for word in (given[name] or "").split(",") if word.strip()]
        if given[name] is not None and not words:
            example = "dtypes, as in float32,float64" if name == "dtype" else "integers from 1, as in 8,16,32"
            raise ValueError(f"--{name}: got {given[name]!r}, expected {example}; leave it out for the preset's own")
        if name != "dtype" and not all(word.isdecimal() and int(word) > 0 for word in words):
            raise ValueError(f"--{name}: got {given[name]!r}, expected integers from 1, as in 8,16,32")
        axes[name] = tuple(words if name == "dtype" else map(int, words))
    return run.Asked(
        given["preset"],
        tuple(given["cell"] or ()),
        tuple(given["operator"] or ()),
        tuple(given["method"] or ()),
        tuple(given["problem"] or ()),
        tuple(map(str, given["problem_file"])),
        {name: values for name, values in axes.items() if values},
        given["only"] or "",
        given["device"],
        int(given["memory_budget"] * 2**30),
        given["timed"],
    )


def source(asked: Any) -> str:
    return "the cells named" if asked.cells else f"preset {asked.preset!r}" if not asked.operators else "these sweeps"

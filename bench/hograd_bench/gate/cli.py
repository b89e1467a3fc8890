"""The command ``hograd gate``: reads arguments, picks the sides, writes the outcome everywhere it is wanted."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hograd_bench.gate.outcome import NotComparableError, UsageError
from hograd_bench.gate.output.writer import OutputWriter
from hograd_bench.gate.revisions import environments, repository, sides, trees
from hograd_bench.gate.revisions.sides import Side
from hograd_bench.gate.statistics.policy import Policy
from hograd_bench.waiting import signs_of_life

Pair = tuple[str, str]


def _what(help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel="What to compare")


def _how(help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel="How")


def _out(help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel="Where to write it")


def gate(
    context: typer.Context,
    base: Annotated[str | None, _what("revision to compare the working tree with, measured here and now")] = None,
    methods: Annotated[Pair | None, _what("compare method A with method B of the same operators")] = None,
    pythons: Annotated[Pair | None, _what("compare two interpreters (environments) on the working tree")] = None,
    torch: Annotated[Pair | None, _what("compare two torch releases; their environments are built and cached")] = None,
    since: Annotated[
        str | None, _what("add up what was let through since a revision (or a stored run, with --results)")
    ] = None,
    update: Annotated[bool, _what("write the baseline of this machine's key", "--update")] = False,
    cell: Annotated[list[str] | None, _what("these cells (ids) instead of the gate's preset; repeatable")] = None,
    only: Annotated[str, _what("keep cells whose id contains this text", "--only", "-k")] = "",
    plugin: Annotated[
        list[str] | None, _what("module or file of yours that registers operators, methods or problems; repeatable")
    ] = None,
    repo: Annotated[Path, _what("the repository")] = Path("."),
    baseline: Annotated[
        Path | None, _how("folder of the baselines; bench/baselines here, .hograd in other projects")
    ] = None,
    tolerance: Annotated[
        list[str] | None, _how("METRIC=FRACTION: relative growth allowed; default 0; repeatable")
    ] = None,
    no_time: Annotated[bool, _how("exact metrics only", "--no-time")] = False,
    no_counts: Annotated[bool, _how("time only", "--no-counts")] = False,
    same_env: Annotated[
        bool, _how("run the base in this environment even if its constraints differ", "--same-env")
    ] = False,
    matters: Annotated[float, _how("relative change of time below which nothing is called slower")] = Policy.matters,
    same: Annotated[float, _how("relative change of time that `same` rules out")] = Policy.same,
    alarm_rate: Annotated[float, _how("probability of any false alarm in a whole run")] = Policy.alarm_rate,
    max_seconds: Annotated[
        float, _how("wall time of the whole run; exact metrics are finished, and time has a quarter of it, whatever")
    ] = Policy.max_seconds,
    max_pairs: Annotated[int, _how("process pairs at most")] = Policy.max_pairs,
    seed: Annotated[int | None, _how("of the coins that decide which side goes first; drawn if not given")] = None,
    drift: Annotated[float, _how("with --since: growth over the whole span that is not worth a word")] = 0.05,
    results: Annotated[Path | None, _how("with --since RUN: folder of stored runs")] = None,
    as_json: Annotated[bool, _out("print the outcome as JSON", "--json")] = False,
    json_file: Annotated[Path | None, _out("also write JSON here")] = None,
    junit: Annotated[Path | None, _out("also write JUnit XML here")] = None,
    markdown: Annotated[Path | None, _out("also write a Markdown summary here")] = None,
    html: Annotated[
        Path | None, _out("also write a page here, in which what grew is drawn as flame graphs, base against head")
    ] = None,
    github: Annotated[bool, _out("annotations and job summary on GitHub Actions")] = bool(
        os.environ.get("GITHUB_ACTIONS")
    ),
) -> None:
    """Fail when a change made something slower, larger or wrong.

    Exit codes: 0 pass, 1 regression, 2 usage, 3 inconclusive, 4 nothing measured, baseline missing or not comparable.

    Without --base: exact metrics (bytes, allocations, dispatches, nodes, FLOPs) against the committed baseline.
    With --base: both sides measured here, exact metrics and time (docs/gate.md says how alarms are controlled).
    """
    sides.end_cleanly()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a sign that the terminal lacks costs no verdict
    log = _logger(context, quiet=as_json)
    files = {"--json-file": json_file, "--junit": junit, "--markdown": markdown, "--html": html}
    writer = OutputWriter(as_json, {option: path for option, path in files.items() if path is not None}, github)
    try:
        # What runs kernels is imported here: every other command of hograd starts without torch.
        from hograd_bench.gate import preset, run
        from hograd_bench.gate.exact import comparison
        from hograd_bench.gate.exact import drift as cumulative
        from hograd_bench.gate.revisions.sides import Twin

        chosen = [n for n, v in (("--base", base), ("--methods", methods), ("--pythons", pythons),
                                 ("--torch", torch), ("--since", since)) if v is not None]  # fmt: skip
        if len(chosen) > 1 or (update and chosen):
            given = ", ".join(chosen + ["--update"] * update)
            raise UsageError(f"{given}: expected one of them at a time")
        if no_counts and (no_time or not any((base, methods, pythons, torch))):
            raise UsageError("--no-counts: nothing would be left to compare; see --base")
        if methods is not None and methods[0] == methods[1]:
            raise UsageError(f"--methods: got {methods[0]} twice, expected two methods of an operator")
        if not 0 <= drift < math.inf:
            raise UsageError(f"--drift: got {drift:g}, expected a growth from 0, such as 0.05")
        allowed = _tolerances(tolerance or [])
        writer.prepare()
        rules = Policy(matters=matters, same=same, alarm_rate=alarm_rate, max_seconds=max_seconds, max_pairs=max_pairs)
        top = repository.repository(repo)
        plugins = tuple(_inside(top, name) for name in plugin or ())
        if baseline is not None and baseline.is_file():
            raise UsageError(f"--baseline: {baseline} is a file, expected the folder of the baselines")
        folder = baseline or (top / ("bench/baselines" if sides.owns_suite(top) else ".hograd"))
        if since is not None:
            outcome = cumulative.outcome(top, since, folder, drift, results=results)
        else:
            preset.load_plugins(plugins, sides.roots(top))
            cells = preset.chosen(cell or [], only, restricted=bool(plugins))
            names = [c.id for c in cells]
            if not chosen:
                head = sides.working_tree(top, plugins)
                outcome = comparison.against_baseline(
                    head, names, folder, update=update, concerns=_concerned(cell or [], only, plugins),
                    tolerance=allowed, log=log,
                )  # fmt: skip
            else:
                a, b = _sides(top, base, methods, pythons, torch, plugins, same_env, log)
                twins = [Twin(n, n, n) for n in names]
                to_time = twins if cell or only else [Twin(c.id, c.id, c.id) for c in preset.timed(cells)]
                if methods is not None:
                    pairs = preset.with_methods(cells, *methods)
                    to_time = twins = [Twin(y.id, x.id, y.id) for x, y in pairs]
                outcome, _ = run.sides_against(
                    a, b, twins, rules, seed=run.draw_seed() if seed is None else seed, to_time=to_time,
                    counts=not no_counts, timing=not no_time, whole=not (cell or only or methods), tolerance=allowed,
                    log=log,
                )  # fmt: skip
    except ValueError as error:  # UsageError and BaselineError among them
        raise typer.Exit(int(writer.fail(error, "usage").exit)) from None
    except NotComparableError as error:
        raise typer.Exit(int(writer.fail(error, "not comparable").exit)) from None
    except Exception as error:
        raise typer.Exit(int(writer.unexpected(error).exit)) from None
    writer.write(outcome)
    raise typer.Exit(int(outcome.exit))


def _sides(
    top: Path,
    base: str | None,
    methods: Pair | None,
    pythons: Pair | None,
    torch: Pair | None,
    plugins: Sequence[str],
    same_env: bool,
    log: Callable[[str], None],
) -> tuple[Side, Side]:
    head = sides.working_tree(top, plugins)
    if base is not None:
        cache = trees.cache_folder(top)
        return sides.revision(top, base, cache, plugins, sys.executable if same_env else None, log), head
    if methods is not None:
        named = [sides.working_tree(top, plugins, name=f"method {m}") for m in methods]
        return named[0], named[1]
    if pythons is not None:
        for python in pythons:
            if not os.path.isfile(python) or not os.access(python, os.X_OK):
                raise UsageError(f"--pythons: {python} is no executable; give the path of each interpreter")
        named = [sides.working_tree(top, plugins, os.path.abspath(p), name=p) for p in pythons]
        return named[0], named[1]
    cache = trees.cache_folder(top)
    named = []
    for release in torch or ():
        python = environments.environment(top, cache, release, log=log, name=f"torch {release}")
        named.append(sides.working_tree(top, plugins, python, name=f"torch {release}"))
    return named[0], named[1]


def _concerned(ids: Sequence[str], only: str, plugins: Sequence[str]) -> Callable[[str], bool] | None:
    """Which cells of a baseline were asked about: those named, or what plugins brought; None: all."""
    from hograd_bench.gate import preset

    if not (ids or only or plugins):
        return None
    return lambda cell: only in cell and (cell in ids if ids else not plugins or preset.foreign(cell))


def _inside(top: Path, plugin: str) -> str:
    """A plugin's file as every side has its own: by its place in the repository."""
    path = Path(plugin)
    if plugin.endswith(".py") and path.is_absolute() and path.resolve().is_relative_to(top.resolve()):
        return str(path.resolve().relative_to(top.resolve()))
    return plugin


def _tolerances(given: Sequence[str]) -> dict[str, float]:
    from hograd_bench import metrics

    known = sorted(name for name, record in metrics.metrics().items() if record.exact)
    allowed = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            allowed[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name or not 0 <= allowed[name] < 1:
            raise UsageError(f"--tolerance: got {text!r}, expected METRIC=FRACTION, such as peak_bytes=0.01")
        if name not in known:
            raise UsageError(f"--tolerance: got the metric {name!r}, expected one of {', '.join(known)}")
    return allowed


def _logger(context: typer.Context, *, quiet: bool) -> Callable[[str], None]:
    """Prints progress, and its last line again while nothing new comes, until the command ends."""
    latest = ["starting"]

    def log(line: str) -> None:
        latest[0] = line
        if not quiet:
            print(f"  {line}", file=sys.stderr, flush=True)

    if not quiet:
        context.with_resource(signs_of_life(Console(stderr=True), lambda: f"  still at it: {latest[0]}"))
    return log


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(gate)

if __name__ == "__main__":
    app()

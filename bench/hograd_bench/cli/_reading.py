"""Commands that read results: report, compare, claims, law."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hograd_bench import units
from hograd_bench.cli._common import AsJson, Results, err, fail, out, print_json, write_text
from hograd_bench.schema import visible
from hograd_bench.waiting import signs_of_life

if TYPE_CHECKING:
    import pandas as pd

    from hograd_bench import store

DIFFERENT = 1
_SIZES = ("n", "depth", "batch", "order")


def report(
    results: Results = Path("results"),
    reports: Annotated[Path, typer.Option(help="folder to write to")] = Path("reports"),
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="two runs (folder, id, beginning of an id, or latest): a page of its own that compares them"),
    ] = None,
    run: Annotated[list[str] | None, typer.Option(help="only this run; repeat for several; all where none")] = None,
    markdown: Annotated[Path | None, typer.Option(help="also write the Markdown summary to this file")] = None,
    benchmark_json: Annotated[
        Path | None, typer.Option(help="also write the newest timed rows to this file, in pytest-benchmark's JSON")
    ] = None,
) -> None:
    """Build reports/index.html, one self-contained file, from results/, with the data as CSV and Parquet beside it."""
    if compare is not None and (run or markdown is not None or benchmark_json is not None):
        raise fail("--compare: builds a page of its own, without --run, --markdown and --benchmark-json")
    build_report(results, reports, compare=compare, runs=run or (), markdown=markdown, benchmark_json=benchmark_json)


def build_report(
    results: Path,
    reports: Path,
    *,
    compare: tuple[str, str] | None = None,
    runs: Sequence[str] = (),
    markdown: Path | None = None,
    benchmark_json: Path | None = None,
) -> None:
    """Build the page and print where it is, and its headline tables."""
    from hograd_bench import report as reporting

    try:
        with signs_of_life(err, lambda: f"building the report of {results} …"):
            if compare is not None:
                built = reporting.build_comparison(results, reports, *compare)
            else:
                built = reporting.build(results, reports, runs=runs, markdown=markdown, benchmark_json=benchmark_json)
    except reporting.ReportError as error:
        raise fail(str(error), 1) from None
    built.print(out)


def compare(
    a: Annotated[str, typer.Argument(help="a run: its folder, its id, the beginning of its id, or latest")],
    b: Annotated[str, typer.Argument(help="another run")],
    results: Results = Path("results"),
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="only metrics that must be equal to the last digit")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What differs between two runs: exact metrics exactly, times as ratios for orientation.

    Exit status 0 when every cell is there twice with equal deterministic metrics, 1 when something differs or
    nothing could be compared.
    """
    from hograd_bench import compare as comparing
    from hograd_bench import metrics, store

    loaded, folders = [], []
    for name in (a, b):
        try:
            folders.append(store.find_run(results, name))
            with signs_of_life(err, lambda: f"reading {folders[-1]} …"):
                found = store.load(folders[-1])
        except store.StoreError as error:
            raise fail(str(error)) from None
        for warning in found.warnings:
            err.print(f"warning: {warning}", markup=False)
        (environment,) = found.environments.values()
        loaded.append((found.rows, environment))
    for doubt in comparing.doubts(*folders):
        err.print(f"warning: {doubt}", markup=False)
    (rows_a, env_a), (rows_b, env_b) = loaded
    found_out = comparing.compare(rows_a, rows_b, env_a, env_b, metrics.known(), deterministic_only=deterministic)
    if as_json:
        print_json(found_out.to_json())
    else:
        _print_lines("", found_out.summary())
        turned = found_out.statuses.to_dict("records")
        _print_lines(
            "Cells whose status changed",
            [f"{t['status_a']} → {t['status_b']}: {t['reason_b'] or t['reason_a'] or ''}  {t['cell']}" for t in turned],
        )
        _print_lines("Deterministic metrics that differ, the largest change first", _changes(found_out.differences))
        others = found_out.ratios
        if not deterministic and len(others):
            _print_lines("Other metrics, B / A, the largest change first", _changes(others[others["a"] != others["b"]]))
            _print_lines("", [comparing.TIME_NOTE])
    if not found_out.same:
        raise typer.Exit(DIFFERENT)


def claims(
    ids: Annotated[list[str] | None, typer.Argument(help="claims to judge, e.g. C2; all where none is named")] = None,
    results: Results = Path("results"),
    explain: Annotated[
        bool, typer.Option("--explain", help="show the points, the law, the alternative that lost and why")
    ] = False,
    run: Annotated[bool, typer.Option("--run", help="first measure exactly the cells that are missing")] = False,
    markdown: Annotated[Path | None, typer.Option(help="write the verdicts to this Markdown file")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge the textbook's cost claims from what was measured."""
    from hograd_bench import claims as judging

    known = {claim.id: claim for claim in judging.load()}
    unknown = [name for name in ids or [] if name not in known]
    if unknown:
        raise fail(f"claim: got {unknown[0]!r}, expected some of {', '.join(known)}")
    chosen = [known[name] for name in ids] if ids else list(known.values())
    if run:
        _measure_missing(chosen, results)
    loaded, rows = _newest(results)
    verdicts = judging.adjudicate(rows, chosen)
    if markdown is not None:
        write_text("--markdown", markdown, judging.render_markdown(verdicts, list(loaded.environments.values())))
    if as_json:
        print_json([verdict.as_dict() for verdict in verdicts])
        return
    if explain:
        for verdict in verdicts:
            out.print(visible(judging.explain(verdict)), markup=False, soft_wrap=True)
        return
    longest = max((len(v.claim.id) for v in verdicts), default=0)
    _print_lines("", [f"{v.claim.id:{longest}}  {judging.MARKS[v.outcome]:21} {v.claim.title}" for v in verdicts])
    _print_lines("", ["why: `hograd claims ID --explain`"])
    if any(verdict.outcome == judging.INSUFFICIENT for verdict in verdicts):
        _print_lines("", ["`hograd claims --run` measures what is missing"])


def _measure_missing(chosen: list[Any], results: Path) -> None:
    import pandas as pd

    from hograd_bench import claim_cells
    from hograd_bench import run as running

    have = _newest(results)[1] if results.exists() else pd.DataFrame()
    plans = claim_cells.missing_cells(have, chosen)
    if not plans:
        return
    try:
        asked = {"asked": {"cell": [p.cell.id for p in plans]}}  # so that `hograd run --resume` goes on with it
        outcome = running.run(plans, results, record=asked, console=err)
    except running.RunError as error:
        raise fail(str(error), 1) from None
    outcome.print(err)


def law(
    operator: Annotated[str, typer.Option(help="operator or alias, e.g. hvp")],
    method: Annotated[str, typer.Option(help="method, e.g. double_backward")],
    problem: Annotated[str, typer.Option(help="problem, e.g. sin_chain")],
    metric: Annotated[str, typer.Option(help="metric, e.g. peak_bytes or seconds_min")] = "peak_bytes",
    order: Annotated[int | None, typer.Option(help="derivative order; an alias fixes it")] = None,
    dtype: Annotated[str, typer.Option(help="dtype of the cells")] = "float32",
    device: Annotated[str, typer.Option(help="device of the cells")] = "cpu",
    threads: Annotated[int, typer.Option(help="threads of the cells")] = 1,
    fix: Annotated[str | None, typer.Option(help="sizes to hold fixed, e.g. depth=2")] = None,
    machine: Annotated[str | None, typer.Option(help="machine; needed where results hold several")] = None,
    predict: Annotated[str | None, typer.Option(help="sizes to predict, e.g. n=4096,depth=64")] = None,
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """The law by which a metric grows with n, T (depth) and batch, as a formula, from what was measured."""
    from hograd_bench import facts, laws

    rows = _newest(results)[1]  # first, for a run brings its own operators
    try:
        name, fixed = facts.resolve(operator)
    except ValueError as error:
        raise fail(str(error)) from None
    where: dict[str, Any] = {
        "operator": name, "method": method, "problem": problem, "dtype": dtype, "device": device,
        "threads": threads,
    }  # fmt: skip
    chosen_order = order or fixed
    if chosen_order is not None:
        where["order"] = chosen_order
    if machine is not None:
        where["machine"] = machine
    where |= _sizes(fix, "--fix") if fix else {}
    series = laws.select(rows, **where)
    if series.empty:
        raise fail(f"{_lacking(rows, where)} in {results}; measure some with `hograd run`")
    try:
        found = laws.law_of(series, metric)
    except ValueError as error:
        raise fail(f"{error}; choose with --fix, --order or --machine") from None
    text = found.text if isinstance(found, laws.ExactLaw | laws.FittedLaw) else str(found)
    prediction = None
    if predict is not None and isinstance(found, laws.ExactLaw | laws.FittedLaw):
        prediction = _predict(found, predict)
    if as_json:
        print_json({"law": text, "kind": type(found).__name__, "prediction": prediction})
        return
    out.print(text, markup=False, soft_wrap=True)
    if prediction is not None:
        out.print(f"at {predict}: {prediction}", markup=False)


def _lacking(rows: pd.DataFrame, where: dict[str, Any]) -> str:
    """What no row has, beside what those have that are right so far."""
    for i, (name, value) in enumerate(where.items()):
        if not (rows[name] == value).any():
            so_far = "".join(f" with {k}={v}" for k, v in list(where.items())[:i])
            there = ", ".join(map(str, sorted(rows[name].unique()))) or "none, for there are no rows"
            return f"{name}: got {str(value)!r}, expected one of {there}: the rows{so_far}"
        rows = rows[rows[name] == value]
    return "no rows"


def _sizes(text: str, option: str) -> dict[str, int]:
    try:
        sizes = {key.strip(): int(value) for key, value in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise fail(f"{option}: got {text!r}, expected sizes such as n=4096,depth=64") from None
    for name in sizes:
        if name not in _SIZES:
            raise fail(f"{option}: got {name!r}, expected one of {', '.join(_SIZES)}")
    return sizes


def _predict(found: Any, text: str) -> str:
    sizes = _sizes(text, "--predict")
    from hograd_bench import laws

    try:
        if isinstance(found, laws.ExactLaw):
            return f"{found.predict({**found.fixed, **sizes}):,} exactly"
        expected = found.predict(sizes[found.variable])
        return f"{expected.value:.3g}, between {expected.low:.3g} and {expected.high:.3g} ({expected.coverage:.0%})"
    except KeyError:
        raise fail(f"--predict: got {text!r}, expected a value for {found.variable}") from None
    except ValueError as error:
        raise fail(f"--predict: {error}") from None


def _newest(results: Path) -> tuple[store.Results, pd.DataFrame]:
    """Everything that was read, and the latest row of every cell of each machine."""
    from hograd_bench import store

    try:
        with signs_of_life(err, lambda: f"reading {results} …"):
            loaded = store.load(results)
    except store.StoreError as error:
        raise fail(str(error), 1) from None
    for warning in loaded.warnings[:5]:
        err.print(f"warning: {visible(str(warning))}", markup=False, soft_wrap=True)
    if len(loaded.warnings) > 5:
        err.print(f"warning: and {len(loaded.warnings) - 5} more", markup=False)
    if loaded.rows.empty and loaded.warnings:
        count = len(loaded.warnings)
        what = "1 line or file is damaged" if count == 1 else f"{count} lines or files are damaged"
        raise fail(f"{results}: none of its rows can be read, {what}; measure anew with `hograd run`", 1)
    return loaded, store.newest(loaded.rows)


def _changes(frame: pd.DataFrame) -> Iterator[str]:
    """A line for each: how much, of what, from where to where, and the cell's id, whole, last."""
    for change in frame.to_dict("records"):
        ratio = change["ratio"]
        factor = units.times(ratio) if ratio == ratio and math.isfinite(ratio) else ""
        a, b = (_figure(change["metric"], change[side]) for side in ("a", "b"))
        note = f" ({change['note']})" if change.get("note") else ""
        yield f"{factor:>8}  {change['metric']} {a} → {b}{note}  {change['cell']}"


def _figure(metric: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return "none" if value is None or value != value else units.full(metric, value)


def _print_lines(title: str, lines: Iterable[str], most: int = 40) -> None:
    """Lines of text as it is, each whole: where it is longer than the terminal, that wraps it."""
    shown = list(lines)
    if title and shown:
        out.print(f"\n{title}", style="bold", markup=False)
    for line in shown[:most]:
        out.print(visible(line), markup=False, soft_wrap=True)
    if len(shown) > most:
        out.print(f"and {len(shown) - most} more; --json prints all")

"""Frames -> HTML text. Pure: reads no file but its own templates."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import pandas as pd

from hograd_bench import claims, store
from hograd_bench.report import figures
from hograd_bench.report.style import style, svg

_COLUMNS = (
    "operator", "method", "problem", "n", "order", "depth", "batch", "dtype", "device", "threads", "status",
)  # fmt: skip
_METRICS = (
    ("seconds_min", "time"), ("gradient_equivalents", "gradients"), ("peak_bytes", "peak"), ("total_bytes", "total"),
    ("allocations", "allocations"), ("aten_calls", "ATen calls"), ("relative_error", "rel. error"),
)  # fmt: skip


def render(rows: pd.DataFrame, loaded: store.Results, results: Path) -> tuple[str, list[str]]:
    """The page and the headline sentences of its verdicts.

    Args:
        rows: the rows that the page speaks about, one a cell and machine.
        loaded: everything that was read, for environments and warnings.
        results: where it was read from, for the commands shown.
    """
    verdicts = claims.adjudicate(rows)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hograd_bench.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(seconds=seconds, bytes=binary)
    html = environment.get_template("index.html.j2").render(
        verdicts=[verdict.as_dict() for verdict in verdicts],
        statuses=Counter(rows["status"]).most_common(),
        reasons=Counter(
            f"{s!s}: {r!s}" for s, r in zip(rows["status"], rows["reason"], strict=True) if r
        ).most_common(),
        sections=list(_sections(rows[rows["status"] == "ok"])),
        environments=[_environment(m, r, e) for (m, r), e in loaded.environments.items() if r in set(rows["run"])],
        columns=_COLUMNS,
        metrics=_METRICS,
        cells=[_cell({str(k): v for k, v in row.items()}) for row in rows.to_dict("records")],
        warnings=[str(w) for w in loaded.warnings],
        results=results.as_posix(),
    )
    return html, [f"{v.claim.id} {v.outcome}: {v.sentence}" for v in verdicts]


def _sections(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Every figure as SVG text, closed as soon as it is written."""
    with style():
        for module in figures.figures():
            pictures = []
            for drawn in module.draw(rows):
                pictures.append({"name": drawn.name, "caption": drawn.caption, "svg": svg(drawn.figure, drawn.alt)})
                plt.close(drawn.figure)
            if pictures:
                yield {"title": module.TITLE, "about": module.ABOUT, "pictures": pictures}


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    """What the table shows of a row: its fields, formatted metrics, or why they are missing."""
    missing = row["missing"]
    shown = []
    for name, _ in _METRICS:
        value = row.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            shown.append({"text": "–", "sort": "", "why": missing.get(name, row["reason"] or "not in this row")})
        else:
            shown.append({"text": FORMATS.get(name, _plain)(value), "sort": repr(float(value)), "why": ""})
    return {
        "id": row["cell"], "run": row["run"], "machine": row["machine"], "fields": [row[c] for c in _COLUMNS],
        "reason": row["reason"], "metrics": shown,
    }  # fmt: skip


def _environment(machine: str, run: str, recorded: dict[str, Any]) -> dict[str, Any]:
    return {"machine": machine, "run": run, "text": json.dumps(recorded, indent=1, ensure_ascii=False)}


def seconds(value: float) -> str:
    """Seconds with three figures and a unit that reads."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if value >= scale or unit == "ns":
            return f"{value / scale:.3g} {unit}"
    raise AssertionError("unreachable")


def binary(value: float) -> str:
    """Bytes exactly up to 10 KiB, then with three figures in KiB, MiB or GiB."""
    if value < 10 * 2**10:
        return f"{int(value)} B"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    raise AssertionError("unreachable")


def _plain(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


FORMATS = {"seconds_min": seconds, "peak_bytes": binary, "total_bytes": binary}

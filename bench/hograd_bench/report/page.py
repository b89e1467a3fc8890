"""Frames -> HTML text. Pure: reads no file but its own templates and the vendored library."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup, escape

from hograd_bench import units
from hograd_bench.report import answers, cells, figures, history, matrix, own, palette, text, training, verdicts
from hograd_bench.report.data import ReportData
from hograd_bench.report.summary import Summary

LARGEST_ENVIRONMENT = 40_000
LONGEST = 4000
"""Characters of a text on the page at most: an error message may be megabytes long."""
MOST_ENVIRONMENTS = 60

_PICTURE = re.compile(r'<svg\b[^>]*? id="([\w-]+)"')

Section = dict[str, Any]


def render(data: ReportData, said: Summary, warnings: Sequence[str], source: str) -> str:
    """The page.

    Args:
        data: what it speaks about.
        said: verdicts, recommendations and what is new.
        warnings: what is missing from the data, was not read, or left out.
        source: where the rows were read from, for the commands shown.
    """
    anchors = cells.anchors_of(data.rows)
    runs = _present(data)
    environments = {key: f"env-{i}" for i, key in enumerate(runs[-MOST_ENVIRONMENTS:])}
    made = history.runs(data)
    lines, older = history.table(made)
    table = template("cells.html.j2").render(
        columns=cells.columns(data), metrics=cells.figures(data), rows=cells.table(data), cut=data.cut
    )
    evidence = template("evidence.html.j2").render(
        evidence=cells.evidence(data, environments), most_samples=cells.SAMPLES
    )
    return template("index.html.j2").render(
        **assets(),
        title="hograd report",
        facts=_facts(data),
        statuses=Counter(data.rows["status"]).most_common(),
        tally=verdicts.tally(said.verdicts),
        verdicts=verdicts.views(said.verdicts, anchors),
        own=own.tables(data),
        needs=said.needs,
        answers=_answers(data, said),
        tables=answers.tables(said.needs),
        run_diffs=said.run_diffs,
        verdict_changes=[(i, t, verdicts.mark(a), verdicts.mark(b)) for i, t, a, b in said.changed],
        training=training.workloads(data),
        training_pictures=_training_pictures(data),
        sections=_sections(data),
        matrices=matrix.matrices(data),
        signs=matrix.legend(data),
        reasons=matrix.reasons(data),
        runs=lines if len(made) > 1 else [],
        older=older,
        cells=Markup(table),
        evidence=Markup(evidence),
        environments=[_environment(key, anchor, data.environments[key]) for key, anchor in environments.items()],
        warnings=warnings,
        source=source,
    )


def template(name: str) -> jinja2.Template:
    """A template of this room; whatever it shows is escaped."""
    return _templates().get_template(name)


@functools.cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("hograd_bench.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_presentable,
    )  # fmt: skip
    made.filters.update(
        seconds=units.seconds, bytes=units.binary, times=units.times, metric_name=_metric_name, in_words=text.in_words
    )
    return made


def _presentable(value: Any) -> Any:
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return text.visible(value if len(value) <= LONGEST else value[:LONGEST] + "…")


def assets() -> dict[str, Any]:
    """Style sheet, scripts, and the policy that lets no other script run."""
    room = resources.files("hograd_bench.report")
    library = room.joinpath("vendor/dataTables.min.js").read_text(encoding="utf-8")
    glue = room.joinpath("templates/report.js").read_text(encoding="utf-8")
    css = room.joinpath("templates/style.css").read_text(encoding="utf-8")
    colours = [
        "".join(f"--s{i}:{c};" for i, c in enumerate(chosen)) for chosen in (palette.LIGHT, palette.DARK)
    ]  # fmt: skip
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in (library, glue)
    )
    return {
        "css": Markup(css), "light": Markup(colours[0]), "dark": Markup(colours[1]), "library": Markup(library),
        "glue": Markup(glue),
        "policy": f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {hashes}",
    }  # fmt: skip


def _sections(data: ReportData) -> list[Section]:
    """The figures that have something to show; their SVG is ours and is not escaped."""
    from hograd_bench.report.style import style  # seaborn: for those who draw

    made = []
    for module in figures.figures():
        with style():
            pictures = [picture(drawn) for drawn in module.draw(data)]
        if pictures:
            identity = module.__name__.rpartition(".")[2]
            said = module.answer(data) if hasattr(module, "answer") else ""
            made.append({
                "id": identity, "title": module.TITLE, "about": module.ABOUT, "answer": said, "pictures": pictures,
            })  # fmt: skip
    return made


def _answers(data: ReportData, said: Summary) -> list[tuple[answers.Answer, dict[str, Any] | None]]:
    """Every answer with its picture, where its methods were measured at a size at all."""
    from hograd_bench.report import slowdowns
    from hograd_bench.report.style import style

    found = answers.answers(said.needs)
    with style():
        drawn = [slowdowns.draw(answer, number, data.palette) for number, answer in enumerate(found)]
    return [(answer, picture(one) if one else None) for answer, one in zip(found, drawn, strict=True)]


def _training_pictures(data: ReportData) -> list[dict[str, Any]]:
    from hograd_bench.report.style import style

    with style():
        return [picture(drawn) for drawn in training.pictures(data)]


def picture(drawn: figures.Drawn) -> dict[str, Any]:
    """A picture as templates show it."""
    return {
        "name": drawn.name, "title": drawn.title, "caption": drawn.caption,
        "facets": json.dumps(dict(drawn.keys), ensure_ascii=True), "panels": [Markup(p) for p in drawn.panels],
        "notes": drawn.notes, "notes_title": drawn.notes_title, "thumb": _identity(drawn.panels[0]),
    }  # fmt: skip


def _identity(panel: str) -> str:
    """The id of a panel's picture, by which a small one of it is shown; "" where it has none."""
    found = _PICTURE.search(panel)
    return found[1] if found else ""


def _facts(data: ReportData) -> list[tuple[str, str]]:
    """Where the figures come from, in a few words each."""
    latest = [data.environments[key] for key in _present(data)]

    def several(section: str, key: str) -> str:
        return ", ".join(dict.fromkeys(history.fact(e, section, key) for e in latest)) or "unknown"

    gpus = [g for e in latest for g in (e.get("gpus") or [])]
    named = dict.fromkeys(text.clean(g.get("name"), 40) for g in gpus if isinstance(g, Mapping))
    machines = ", ".join(text.clean(m, 50) for m in sorted(data.rows["machine"].unique()))
    found = [
        ("machine", machines), ("CPU", several("cpu", "model")), ("GPU", ", ".join(named)),
        ("torch", several("torch", "version")), ("commit", ", ".join(_commits(latest))),
        ("last run", _last(data)),
    ]  # fmt: skip
    return [(k, v if len(v) < 200 else v[:199] + "…") for k, v in found if v]


def _present(data: ReportData) -> list[tuple[str, str]]:
    """(machine, run) of the runs that rows of the page come from."""
    met = set(zip(data.rows["machine"], data.rows["run"], strict=True))
    return [key for key in data.environments if key in met]


def _last(data: ReportData) -> str:
    """When the latest row was measured: ``2026-11-23 18:16``."""
    return text.minute(max(filter(text.is_moment, data.rows["started"]), default="unknown"))


def _commits(environments: Sequence[dict[str, Any]]) -> list[str]:
    found = dict.fromkeys(history.fact(e, "source", "commit")[:10] for e in environments)
    return [c for c in found if c != "unknown"]


def _environment(key: tuple[str, str], anchor: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
    whole = json.dumps(recorded, indent=1, ensure_ascii=False, default=str)
    return {
        "machine": key[0], "run": key[1], "anchor": anchor,
        "text": escape(text.visible(whole[:LARGEST_ENVIRONMENT])),
    }  # fmt: skip


def _metric_name(name: str) -> str:
    return text.labels().get(name, name.replace("_", " "))

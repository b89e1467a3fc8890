"""An outcome for people and programs: terminal, JSON, JUnit, Markdown, GitHub annotations. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any
from xml.etree import ElementTree

from hograd_bench.gate.outcome import Exit, Outcome

HEADLINES = {
    Exit.PASS: "pass",
    Exit.REGRESSION: "regression",
    Exit.USAGE: "usage error",
    Exit.INCONCLUSIVE: "inconclusive",
    Exit.NOT_COMPARABLE: "not comparable",
}
_MARKS = {"error": "✗", "warning": "!", "notice": "·"}
# What XML 1.0 has no way to say.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LISTED = 200
ALIKE = 5


def headline(outcome: Outcome) -> str:
    """One line: the exit code in words and what was compared."""
    verdicts = Counter(v["verdict"] for v in outcome.timing.values())
    parts = [f"exact metrics of {outcome.counted} cells"] if outcome.counted else []
    if verdicts:
        said = ", ".join(f"{n} {name}" for name, n in sorted(verdicts.items(), key=lambda x: -x[1]))
        parts.append(f"{sum(verdicts.values())} cells timed over {outcome.pairs} process pairs: {said}")
    what = "; ".join(parts) or "nothing was compared"
    return f"{HEADLINES[outcome.exit]} (exit {int(outcome.exit)}): {outcome.title}; {what}; {outcome.seconds:.0f} s"


def text(outcome: Outcome) -> str:
    """For a terminal: findings, then the headline."""
    lines, left = [], list(outcome.findings)
    for kind in ("new", "inconclusive"):  # many of them say one thing
        alike = [f for f in left if f.kind == kind and f.cell]
        if len(alike) > ALIKE:
            left = [f for f in left if f not in alike]
            mark = _MARKS[alike[0].level]
            lines.append(f"{mark} {kind}: {len(alike)} cells, {alike[0].cell} the first; --json lists them")
    for found in left[:LISTED]:
        where = f"{found.cell}: " if found.cell else ""
        lines.append(f"{_MARKS[found.level]} {found.kind}: {where}{found.text}")
    if len(left) > LISTED:
        lines.append(f"· and {len(left) - LISTED} more; --json has them all")
    lines.append(f"hograd gate: {headline(outcome)}")
    return "\n".join(lines)


def to_json(outcome: Outcome) -> str:
    """Everything, one object, no NaN."""
    return json_text(outcome.as_dict())


def json_text(data: Any) -> str:
    """JSON as this room writes it."""
    return json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def markdown(outcome: Outcome) -> str:
    """For a job's summary page or a pull request: the findings first, all timed cells folded away."""
    lines = [f"### hograd gate: {HEADLINES[outcome.exit]}", "", _cell(headline(outcome)), ""]
    if outcome.findings:
        lines += ["| | cell | metric | what |", "|---|---|---|---|"]
        for f in outcome.findings[:LISTED]:
            lines.append(f"| {_MARKS[f.level]} {f.kind} | {_code(f.cell)} | {_code(f.metric)} | {_cell(f.text)} |")
        if len(outcome.findings) > LISTED:
            lines.append(f"| | | | and {len(outcome.findings) - LISTED} more |")
        lines.append("")
    if outcome.timing:
        lines += ["<details><summary>time of every cell, B against A</summary>", ""]
        lines += ["| cell | verdict | change | interval | pairs |", "|---|---|---:|---|---:|"]
        for name, v in outcome.timing.items():
            interval = f"{percent(v['low'])} to {percent(v['high'])}"
            lines.append(f"| {_code(name)} | {v['verdict']} | {percent(v['ratio'])} | {interval} | {v['pairs']} |")
        lines += ["", "</details>", ""]
    for letter, side in outcome.sides.items():
        lines.append(f"- {_cell(letter)}: {_cell(', '.join(f'{k} {v}' for k, v in side.items() if v))}")
    return "\n".join(lines) + "\n"


def percent(ratio: float | None) -> str:
    """A ratio as a change in percent; unbounded where there were too few pairs."""
    return "unbounded" if ratio is None or ratio <= 0 else f"{ratio - 1:+.1%}"


def _cell(words: str) -> str:
    """Text that cannot end a table cell or become markup."""
    escaped = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", " ".join(escaped.split()))


def _code(words: str) -> str:
    return f"`{' '.join(words.replace('`', ' ').replace('|', ' ').split())}`" if words.strip() else ""


def junit(outcome: Outcome) -> str:
    """JUnit XML: a test case per finding, per cell that is the same in time, and one for all exact metrics.

    Errors fail, warnings are skipped tests.
    """
    suite = ElementTree.Element("testsuite", name="hograd gate")
    failures = skips = 0
    for found in outcome.findings:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_xml(found.cell or "run"), name=_xml(found.metric or found.kind)
        )
        if found.level == "error":
            failures += 1
            ElementTree.SubElement(case, "failure", type=found.kind, message=_xml(found.text))
        elif found.level == "warning":
            skips += 1
            ElementTree.SubElement(case, "skipped", message=_xml(f"{found.kind}: {found.text}"))
    if outcome.counted:
        ElementTree.SubElement(
            suite, "testcase", classname="run", name=f"exact metrics compared in {outcome.counted} cells"
        )
    for name, verdict in outcome.timing.items():
        if verdict["verdict"] == "same":
            ElementTree.SubElement(suite, "testcase", classname=_xml(name), name="time")
    if outcome.exit == Exit.NOT_COMPARABLE and not failures:
        failures += 1
        case = ElementTree.SubElement(suite, "testcase", classname="run", name="comparable")
        ElementTree.SubElement(case, "failure", type="not comparable", message="nothing was compared")
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(failures))
    suite.set("skipped", str(skips))
    suite.set("time", f"{outcome.seconds:.3f}")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _xml(words: str) -> str:
    return _NOT_XML.sub("�", words)


def github(outcome: Outcome) -> str:
    """Workflow commands that GitHub shows on the run and the pull request."""
    lines = []
    for found in outcome.findings[:LISTED]:
        title = _property(f"hograd gate: {found.kind}")
        lines.append(f"::{found.level} title={title}::{_data(f'{found.cell} {found.text}'.strip())}")
    return "\n".join(lines)


def _data(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _data(words).replace(":", "%3A").replace(",", "%2C")

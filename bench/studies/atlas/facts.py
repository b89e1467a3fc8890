"""Outcomes as facts: one line an operator, in which all that is not said is right.

A file is JSON: a header, then ``"operators"``, an operator a line, sorted. An operator has

=========== =======================================================================================
``op``      its name
``samples`` its samples in words; all else refers to them by number
``nodes``   nodes of autograd's tape, where any method is wrong
``doubts``  ``[order, reason, samples]``: no truth there, nothing is judged; order 0: at any order
``wrong``   ``[order, method, {sample: relative error}]``
``rest``    ``[status, order, message, methods, samples]`` for nonfinite, unsupported and raised
``near``    ``[order, method, samples]``: errors near the tolerance, another CPU may say otherwise
=========== =======================================================================================
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.atlas.probe import MARGIN, TOLERANCE

RIGHT = "right"
Statuses = dict[tuple[str, int, str], str]
"""(sample, order, method) -> status."""


def rounded(error: float) -> float:
    """Two significant digits; beyond a thousand only that it is."""
    return float(f"{min(error, 1000.0):.2g}")


def near(order: int, error: float | None) -> bool:
    """Whether an error is so near the tolerance that the status could be another on another CPU."""
    return error is not None and TOLERANCE[order] / MARGIN < error < TOLERANCE[order] * MARGIN


def _grouped(pairs: Mapping[tuple[Any, ...], set[int]]) -> list[list[Any]]:
    """Keys whose last part is a method, with sample numbers: methods that share all else become one entry."""
    groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for (*key, method), samples in pairs.items():
        shared = (*key, tuple(sorted(samples)))
        groups[shared].append(method)
    return sorted([*key, sorted(methods), list(samples)] for (*key, samples), methods in groups.items())


def line(name: str, findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts of one operator from its findings (see :class:`studies.atlas.probe.Finding`, as JSON)."""
    doubts: dict[tuple[int, str], list[int]] = defaultdict(list)
    wrong: dict[tuple[int, str], dict[str, float]] = defaultdict(dict)
    rest: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    close: dict[tuple[int, str], list[int]] = defaultdict(list)
    nodes: set[str] = set()
    for number, finding in enumerate(findings):
        for order, reason in finding["doubts"].items():
            doubts[int(order), reason].append(number)
        for o in finding["outcomes"]:
            order, method, status = o["order"], o["method"], o["status"]
            if near(order, o["error"]):
                close[order, method].append(number)
            if status == "wrong":
                wrong[order, method][str(number)] = rounded(o["error"])
                nodes |= set(finding["nodes"])
            elif status != RIGHT:
                rest[status, order, o["message"], method].add(number)
    found: dict[str, Any] = {"op": name, "samples": [f["sample"][:160] for f in findings]}
    parts: dict[str, Any] = {
        "nodes": sorted(nodes),
        "doubts": sorted([order, why, numbers] for (order, why), numbers in doubts.items()),
        "wrong": sorted(([order, method, by] for (order, method), by in wrong.items()), key=lambda w: w[:2]),
        "rest": _grouped(rest),
        "near": sorted([order, method, numbers] for (order, method), numbers in close.items()),
    }
    return found | {key: value for key, value in parts.items() if value}


def statuses(operator: Mapping[str, Any], methods: Mapping[str, Sequence[int]]) -> Statuses:
    """Every judged cell of an operator that is not near the tolerance.

    Args:
        operator: its facts.
        methods: method -> the orders it is defined for.
    """
    count = len(operator["samples"])
    judged = {
        (sample, order, method): RIGHT
        for sample in range(count)
        for method, orders in methods.items()
        for order in orders
    }
    for order, method, by in operator.get("wrong", ()):
        judged.update({(int(sample), order, method): "wrong" for sample in by})
    for status, order, _, names, samples in operator.get("rest", ()):
        judged.update({(sample, order, method): status for method in names for sample in samples})
    out = {(s, order, m) for order, m, samples in operator.get("near", ()) for s in samples}
    doubted = {(s, order) for order, _, samples in operator.get("doubts", ()) for s in samples}
    return {
        (operator["samples"][sample], order, method): status
        for (sample, order, method), status in judged.items()
        if (sample, order, method) not in out and not {(sample, order), (sample, 0)} & doubted
    }


def write(path: Path, header: Mapping[str, Any], operators: Sequence[Mapping[str, Any]]) -> None:
    """A facts file, an operator a line."""
    head = json.dumps(dict(header), indent=1, sort_keys=True, ensure_ascii=False).rstrip("}\n")
    ordered = sorted(operators, key=lambda operator: operator["op"])
    lines = ",\n".join(json.dumps(o, separators=(",", ":"), ensure_ascii=False) for o in ordered)
    path.write_text(f'{head},\n "operators": [\n{lines}\n]\n}}\n', encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """A facts file."""
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return facts


def versions(folder: Path) -> dict[str, dict[str, Any]]:
    """All facts that lie in a folder, by torch version, the oldest first."""
    files = [read(path) for path in folder.glob("atlas-*.json")]
    ordered = sorted(files, key=lambda facts: [int(part) for part in facts["torch"].split(".")])
    return {facts["torch"]: facts for facts in ordered}

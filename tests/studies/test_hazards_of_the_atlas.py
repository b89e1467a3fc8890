"""The hazards and the atlas, held against each other: what is wrong is refused, what is refused was seen wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hograd_core.hazards import HAZARDS, TESTED, Hazard, _graph

DATA = Path(__file__).parents[2] / "docs" / "data"
# Hazards of operators that the atlas lists without nodes, because nothing of them is wrong but not finite or an error.
NAMES = {"logcumsumexp": "logcumsumexp", "group_norm": "group_norm"}
# Shown by tests/core/test_hazards.py: zeros and a factor with entries that the atlas does not draw, a Function with a
# jvp too, and one whose backward gets nothing that requires grad.
_FORWARD = {(method, 2) for method in ("func_hessian", "vmap_hvp", "jvp_of_grad")}
_TAPE = {
    (method, 2)
    for method in ("rows", "batched_rows", "double_backward", "double_vjp", "nested_grad", "nested_backward")
}
_SINC = {z.operator: {*z.wrong.items()} for z in HAZARDS if z.operator.startswith("sinc")}
ELSEWHERE = {
    **_SINC,
    "cholesky_inverse": _FORWARD,
    "a torch.autograd.Function with @once_differentiable": _FORWARD | _TAPE,
}


def facts(version: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DATA / f"atlas-{version}.json").read_text(encoding="utf-8"))["operators"]
    return found


def meets(hazard: Hazard, operator: dict[str, Any]) -> bool:
    if _graph.CUSTOM in hazard.nodes:
        return str(operator["op"]).startswith("own.Function")
    if hazard.operator in NAMES:
        return NAMES[hazard.operator] in operator["op"]
    return bool(set(hazard.nodes) & set(operator.get("nodes", ())))


def seen(operator: dict[str, Any]) -> set[tuple[str, int]]:
    """(method, order) that the atlas saw wrong, not finite, or failing otherwise than as unsupported."""
    wrong = {(method, order) for order, method, _ in operator.get("wrong", ())}
    rest = {
        (method, order)
        for status, order, _, methods, _ in operator.get("rest", ())
        if status in ("nonfinite", "raised")
        for method in methods
    }
    return wrong | rest


@pytest.mark.parametrize("version", TESTED)
def test_whatever_is_wrong_is_refused(version: str) -> None:
    missed = []
    for operator in facts(version):
        near = [z for z in HAZARDS if version in z.versions and meets(z, operator)]
        for order, method, _ in operator.get("wrong", ()):
            if "taylor" not in method and not any(z.concerns(method, order) for z in near):
                missed.append((operator["op"], method, order))
    assert not missed


@pytest.mark.parametrize("version", TESTED)
@pytest.mark.parametrize("hazard", HAZARDS, ids=lambda z: z.operator)
def test_whatever_is_refused_was_seen_wrong(hazard: Hazard, version: str) -> None:
    if version not in hazard.versions:
        return
    evidence = set().union(*(seen(operator) for operator in facts(version) if meets(hazard, operator)))
    # What starts at order 1 is seen at order 2; functional_vhp has no order 3.
    lowest = {(method, max(order, 2)) for method, order in hazard.wrong.items()} - {("functional_vhp", 3)}
    assert lowest <= evidence | ELSEWHERE.get(hazard.operator, set())

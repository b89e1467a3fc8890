"""The recommended calls, as code that runs as printed. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from hograd_bench.advise._plan import Need
from hograd_bench.advise._ranking import Ranked

_NAMES = {"gradient": "g", "hvp": "hv", "hessian": "H", "hessian_diagonal": "d"}


def program(request: Mapping[str, Any], described: Mapping[str, Any], chosen: Sequence[tuple[Need, Ranked]]) -> str:
    """Imports, f and x, and one call an operator.

    Args:
        request: what ``targets.Request`` holds.
        described: the target's description.
        chosen: what is computed, with the method to take.
    """
    lines = [*_imports(request["target"]), "", *_made(request, described)]
    calls = [_call(described, need, best) for need, best in chosen]
    if any("v" in described["operators"][need.operator]["inputs"] for need, _ in chosen):
        like = "torch.randn_like"
        lines.append(f"v = torch.utils._pytree.tree_map({like}, x)" if described["leaves"] else f"v = {like}(x)")
    return "\n".join([*lines, *calls])


def _call(described: Mapping[str, Any], need: Need, best: Ranked) -> str:
    operator = described["operators"][need.operator]
    inputs, result = operator["inputs"], _NAMES.get(need.name, need.name)
    named = need.name in operator["aliases"] or operator["order"] is not None
    if best.preparation != "eager":
        order = "" if named else f", order={need.order}"
        made = f'hograd_core.prepare(hograd_core.{need.name}, f, x{order}, method="{best.method}", '
        after = f"  # pays after {best.pays_after:,.0f} calls"
        call = f"{result} = prepared_{result}({', '.join(inputs[1:])})"
        return f'prepared_{result} = {made}preparation="{best.preparation}"){after}\n{call}'
    order = "" if named else f", {need.order}"
    args = ", args=args" if described["has_args"] else ""
    return f'{result} = hograd_core.{need.name}({", ".join(inputs)}{order}{args}, method="{best.method}")'


def _imports(target: str) -> list[str]:
    where, _, name = target.rpartition(":")
    ours = ["import torch", "", "import hograd_core"]
    if not where:
        return ours
    path = PurePath(where)
    if path.suffix != ".py":
        return [*ours, f"from {where} import {name}"]
    named = f"from {path.stem} import {name}"
    if path.parent == PurePath():
        return [*ours, named]
    return ["import sys", "", *ours, "", f'sys.path.insert(0, "{path.parent.as_posix()}")', named]


def _made(request: Mapping[str, Any], described: Mapping[str, Any]) -> list[str]:
    """How f and x, or the model, come to be."""
    where, _, name = request["target"].rpartition(":")
    form = described["form"]
    if not where:  # given as objects: whoever called has them
        return _from_module(form) if form == "module" else []
    if form == "f":
        shape = ", ".join(map(str, (described["shape"]))) or "()"
        more = "" if described["dtype"] == "float32" else f", dtype=torch.{described['dtype']}"
        more += "" if described["device"] == "cpu" else f", device={described['device']!r}"
        aliased = [] if name == "f" else [f"f = {name}"]
        return [*aliased, "torch.manual_seed(0)", f"x = torch.randn({shape}{more})"]
    made = f"{name}({_given(request, described)})" if described["called"] else name
    seeded = ["torch.manual_seed(0)"] if described["called"] else []
    if form == "module":
        return [*seeded, f"module, loss, inputs, targets = {made}", *_from_module(form)]
    if form == "pair":
        return [*seeded, f"f, x = {made}"]
    args = ["args = example.args"] if described["has_args"] else []
    return [*seeded, f"example = {made}", "f, x = example.f, example.x", *args]


def _from_module(form: str) -> list[str]:
    return ["f, x = hograd_core.from_module(module, loss, (inputs, targets))"]


def _given(request: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    given = {} if described["parameter"] is None else {described["parameter"]: str(described["n"])}
    if request["dtype"] is not None:
        given["dtype"] = f"torch.{request['dtype']}"
    if request["device"] != "cpu":
        given["device"] = repr(request["device"])
    return ", ".join(f"{key}={value}" for key, value in given.items())

"""claims.toml -> Claim records, checked as they are read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hograd_bench.claims._model import ROLES, Claim, Part
from hograd_bench.claims._rules import RULES

CLAIMS = Path(__file__).with_name("claims.toml")
_PART = ("id", "says", "rule", "metric", "cells", "refuted_by")
_CLAIM = ("id", "title", "statement", "source", "part")


def load(path: str | Path = CLAIMS) -> tuple[Claim, ...]:
    """Read claims.

    Args:
        path: a TOML file of ``[[claim]]`` tables.

    Returns:
        The claims in the file's order.

    Raises:
        ValueError: the file is no TOML, a field is missing, an id occurs twice, or a rule, role or rule
            parameter is unknown; the message names the claim and the field.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: no TOML: {error}") from error
    tables = data.get("claim", [])
    if not isinstance(tables, list) or not tables:
        raise ValueError(f"{path}: got no [[claim]] tables, expected at least one")
    claims = tuple(_claim(table) for table in tables)
    ids = [c.id for c in claims] + [p.id for c in claims for p in c.parts]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ValueError(f"{path}: id {twice[0]!r} occurs twice")
    return claims


def _claim(table: Mapping[str, Any]) -> Claim:
    name = str(table.get("id", "?"))
    for key in _CLAIM:
        if key not in table:
            raise ValueError(f"claim {name}: no {key}")
    unknown = sorted(set(table) - set(_CLAIM))
    if unknown:
        raise ValueError(f"claim {name}: unknown field {unknown[0]!r}, expected {', '.join(_CLAIM)}")
    parts = tuple(_part(part) for part in table["part"])
    if not any(part.role == "claim" for part in parts):
        raise ValueError(f"claim {name}: no part has the role 'claim', so nothing decides it")
    return Claim(name, table["title"], table["statement"], table["source"], parts)


def _part(table: Mapping[str, Any]) -> Part:
    name = str(table.get("id", "?"))
    for key in _PART:
        if key not in table:
            raise ValueError(f"part {name}: no {key}")
    if table["rule"] not in RULES:
        raise ValueError(f"part {name}: got rule {table['rule']!r}, expected one of {', '.join(RULES)}")
    role = table.get("role", "claim")
    if role not in ROLES:
        raise ValueError(f"part {name}: got role {role!r}, expected one of {', '.join(ROLES)}")
    parameters = {k: v for k, v in table.items() if k not in (*_PART, "role")}
    rule = RULES[table["rule"]]
    unknown = sorted(set(parameters) - set(rule.required) - set(rule.optional))
    lacking = sorted(set(rule.required) - set(parameters))
    if unknown or lacking:
        what = f"unknown parameter {unknown[0]!r}" if unknown else f"no parameter {lacking[0]!r}"
        raise ValueError(f"part {name}: {what} for rule {rule.name}, which takes {', '.join(rule.parameters)}")
    cells = table["cells"]
    return Part(
        id=name,
        says=table["says"],
        rule=table["rule"],
        metric=table["metric"],
        cells=tuple(cells if isinstance(cells, list) else [cells]),
        refuted_by=table["refuted_by"],
        role=role,
        parameters=parameters,
    )

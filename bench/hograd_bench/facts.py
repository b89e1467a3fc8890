"""Facts of operators and problems that readers of results need: order of an alias, operations of f counted by hand.

They are in the registries of hograd_core and of the problems, which take torch. A run carries those of its own cells
(``plan.facts``), and facts.json those of everything that ships, so that reading takes no torch. The file is made by
``python -m hograd_bench.claim_cells``, and a test holds it against the registries.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_carried: dict[str, dict[str, Any]] = {"operators": {}, "operations": {}}
_of_peers: set[str] = set()
"""``operator/method`` of what other packages provide, in the runs that were read."""


def carry(environment: Mapping[str, Any]) -> None:
    """Take over the facts that a run brings and that do not ship; what is no fact is left."""
    brought = environment.get("facts")
    if not isinstance(brought, Mapping):
        return
    for section, is_fact in (("operators", _is_operator), ("operations", _is_count)):
        given = brought.get(section)
        for name, fact in given.items() if isinstance(given, Mapping) else ():
            if name not in _shipped()[section] and is_fact(fact):
                _carried[section][name] = fact
    peers = brought.get("peers")
    for peer in peers.values() if isinstance(peers, Mapping) else ():
        methods = peer.get("methods") if isinstance(peer, Mapping) else None
        _of_peers.update(methods if isinstance(methods, Mapping) else ())


def without_peers(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all methods but those that other packages provide: claims and advice speak of hograd's."""
    if not _of_peers:
        return rows
    chosen: pd.DataFrame = rows[~(rows["operator"] + "/" + rows["method"]).isin(_of_peers)]
    return chosen


def resolve(operator: str) -> tuple[str, int | None]:
    """The operator's own name, and the order that an alias fixes (None for an operator's own name).

    Raises:
        ValueError: no such operator; the message lists those that are known.
    """
    known = {**_carried["operators"], **_shipped()["operators"]}
    if operator in known:
        return operator, None
    for name, aliases in known.items():
        if operator in aliases:
            return name, aliases[operator]
    names = [*sorted(known), *sorted(alias for aliases in known.values() for alias in aliases)]
    raise ValueError(f"operator: got {operator!r}, expected one of {', '.join(names)}")


def alias(operator: str, order: int) -> str:
    """What people call an operator at an order, as ``hvp``; its own name where they have no other."""
    aliases = {**_carried["operators"], **_shipped()["operators"]}.get(operator, {})
    return next((name for name, fixed in aliases.items() if fixed == order), operator)


def operations_of(problem: str, n: int, depth: int, batch: int) -> int | None:
    """Arithmetic operations of one evaluation of f, counted by hand; None where nobody has counted."""
    where = at(problem, n, depth, batch)
    found: int | None = _shipped()["operations"].get(where, _carried["operations"].get(where))
    return found


def at(problem: str, n: int, depth: int, batch: int) -> str:
    """Where the operations of a problem at these sizes are kept."""
    return f"{problem}/n={n},depth={depth},batch={batch}"


def _is_operator(aliases: Any) -> bool:
    return isinstance(aliases, Mapping) and all(_is_count(order) for order in aliases.values())


def _is_count(fact: Any) -> bool:
    return isinstance(fact, int) and not isinstance(fact, bool) and fact >= 0


@functools.cache
def _shipped() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(resources.files("hograd_bench").joinpath("facts.json").read_text("utf-8"))
    return found

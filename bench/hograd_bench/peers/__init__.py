"""Peers: other packages as providers of methods of hograd's operators, measured by name and listed nowhere else.

One file a peer, discovered by being here, or in a folder that the variable HOGRAD_PEERS names. A cell whose method is a
peer's is measured as any other; no registry of ``hograd_core`` knows of it.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Any

from hograd_bench import own_files
from hograd_bench.cells import Cell
from hograd_bench.peers import _operators as _operators  # declares what peers compute and hograd does not list
from hograd_bench.peers._contract import Peer as Peer
from hograd_bench.peers._contract import PeerMethod as PeerMethod
from hograd_bench.peers._contract import Prepared as Prepared
from hograd_bench.peers._contract import Task as Task
from hograd_bench.peers._contract import value_of as value_of
from hograd_core import Method, Operator, resolve

FOLDERS = "HOGRAD_PEERS"
"""Environment variable: folders of peers of one's own, separated as PATH is. Workers inherit it."""


@functools.cache
def peers() -> dict[str, Peer]:
    """All peers by name. Imports none of their packages.

    Raises:
        ValueError: a file declares no ``PEER``, or two share a name.
        OSError: a folder in HOGRAD_PEERS cannot be read.
    """
    ours = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    modules = [(f"{name}.py", importlib.import_module(f"{__name__}.{name}")) for name in ours]
    modules += [(str(file), own_files.load(file, __name__)) for file in own_files.named_by(FOLDERS)]
    found: dict[str, Peer] = {}
    for file, module in modules:
        declared = getattr(module, "PEER", None)
        if not isinstance(declared, Peer):
            raise ValueError(f"peer: {file} declares no PEER = Peer(...); see docs/extending.md")
        if declared.name in found:
            raise ValueError(f"peer: {file}: {declared.name!r} is declared already")
        found[declared.name] = declared
    return found


def methods(operator: Operator) -> list[PeerMethod]:
    """The peers' methods of an operator."""
    return [m for peer in peers().values() for m in peer.methods if m.operator == operator.name]


def find(operator: Operator, name: str, order: int | None = None) -> Method:
    """The method of that name: hograd's, or a peer's.

    Args:
        operator: whose method.
        name: its name.
        order: tells apart what a peer declares for one order each.

    Raises:
        ValueError: no such method; the message lists those that exist.
    """
    if name in operator.methods:
        return operator.methods[name]
    theirs = [m for m in methods(operator) if m.name == name]
    if not theirs:
        others = ", ".join(dict.fromkeys(m.name for m in methods(operator)))
        known = ", ".join(sorted(operator.methods)) + (f", or a peer's: {others}," if others else "")
        raise ValueError(f"method: got {name!r}, expected one of {known} for {operator.name}")
    return next((m for m in theirs if order is not None and m.supports(order)), theirs[0])


def of_cells(cells: Iterable[Cell]) -> Iterator[PeerMethod]:
    """The peers' methods among those of some cells, each once."""
    for operator, name, order in sorted({(c.operator, c.method, c.order) for c in cells}):
        record, _ = resolve(operator)
        if name not in record.methods and isinstance(found := find(record, name, order), PeerMethod):
            yield found


def packages(cells: Iterable[Cell]) -> set[str]:
    """The distributions that the peers among these cells' methods are made of."""
    return {name for method in of_cells(cells) for name in method.peer.requires}


def facts(cells: Iterable[Cell]) -> dict[str, dict[str, Any]]:
    """What readers of these cells' rows must know of peers: whose the methods are, and who is there."""
    found: dict[str, dict[str, Any]] = {}
    for method in of_cells(cells):
        peer = method.peer
        told = found.setdefault(peer.name, {
            "distribution": peer.distribution, "version": peer.version, "home": peer.home,
            "framework": peer.framework, "absence": peer.absence, "methods": {},
        })  # fmt: skip
        told["methods"][f"{method.operator}/{method.name}"] = {"how": method.how, "note": method.note}
    return found

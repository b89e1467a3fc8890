"""Other packages beside hograd's own methods, on the same functions: one file a peer, discovered by being here."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from hograd_bench.peers._contract import Contest as Contest
from hograd_bench.peers._contract import Contestant as Contestant
from hograd_bench.peers._contract import Memory as Memory
from hograd_bench.peers._contract import Offer as Offer
from hograd_bench.peers._contract import Peer as Peer
from hograd_bench.peers._contract import Task as Task


@functools.cache
def peers() -> dict[str, Peer]:
    """All peers by name, hograd itself first. Imports none of their packages.

    Raises:
        ValueError: a file declares no ``PEER``, or two share a name.
    """
    found: dict[str, Peer] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: (m.name != "house", m.name)):
        if module.name.startswith("_"):
            continue
        declared = getattr(importlib.import_module(f"{__name__}.{module.name}"), "PEER", None)
        if not isinstance(declared, Peer):
            raise ValueError(f"peer: {module.name}.py declares no PEER = Peer(...)")
        if declared.name in found:
            raise ValueError(f"peer: {declared.name!r} is declared twice")
        found[declared.name] = declared
    return found

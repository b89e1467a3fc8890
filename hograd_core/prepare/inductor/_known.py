"""Kernels that later processes find by what they compute: which libraries they are, and what is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from hograd_core.prepare.inductor import _compile, _kept
from hograd_core.prepare.inductor._key import Named


class Found(NamedTuple):
    """What an earlier process compiled.

    Attributes:
        runs: the libraries, ready to be called.
        lifted: tensors of f, the last that they are given.
        told: what was told of them.
    """

    runs: list[_compile.Run]
    lifted: list[Tensor]
    told: dict[str, Any]


def keep(named: Named | None, runs: Sequence[_compile.Run], lifted: Sequence[Tensor], **told: Any) -> None:
    """Have later processes find what was compiled, whole and where it takes inputs and tensors of f alone.

    Args:
        named: what it computes; None: it has no name, and is not kept.
        runs: as :func:`._compile.compiled` made them.
        lifted: tensors of f that they take.
        told: what :func:`find` is to tell of them, as JSON has it.
    """
    if named is None or _compile.LEFT_OUT:
        return
    entries = list(map(_compile.entry_of, runs))
    libraries = [None if entry is None else _kept.kept(entry) for entry in entries]
    places = {id(t): i for i, t in enumerate(named.outside)}
    if None not in libraries and all(id(t) in places for t in lifted):
        _kept.write(named.name, {"libraries": libraries, "lifted": [places[id(t)] for t in lifted], **told})


def find(named: Named | None) -> Found | None:
    """What was kept under a name; None: nothing, or not all of it."""
    record = None if named is None else _kept.read(named.name)
    if named is None or record is None:
        return None
    entries = list(map(_kept.load, record["libraries"]))
    runs = [_compile.without_checks(entry) for entry in entries if entry is not None]
    if len(runs) < len(entries):
        return None
    return Found(runs, [named.outside[i] for i in record["lifted"]], record)

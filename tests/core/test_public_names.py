"""What ``hograd_core`` exports: the operators and what every user meets, in groups that are what they say."""

from __future__ import annotations

import importlib
import re
import typing
from pathlib import Path

import pytest

import hograd_core

SOURCE = Path(hograd_core.__file__).read_text(encoding="utf-8")
LISTED = SOURCE[SOURCE.index("__all__ = [") :]
GROUPS: dict[str, list[str]] = {
    title: re.findall(r'"(\w+)"', names) for title, names in re.findall(r"# (.+)\n((?: +\".*\n)+)", LISTED)
}
NAMESPACES = ("curvature", "solvers", "applications.pinn", "applications.gradient_penalty", "applications.maml")


def operators() -> set[str]:
    """Every operator of the library, and every alias."""
    records = [o for o in hograd_core.operators().values() if o.guard.__module__.startswith("hograd_core.")]
    return {name for record in records for name in (record.name, *record.aliases)}


def test_all_is_the_groups_and_every_name_is_there_once() -> None:
    assert [name for names in GROUPS.values() for name in names] == hograd_core.__all__
    assert len(set(hograd_core.__all__)) == len(hograd_core.__all__)
    public = {n for n, v in vars(hograd_core).items() if not n.startswith("_") and not hasattr(v, "__path__")}
    # Modules are attributes too; what is imported and not listed would be exported by accident.
    assert {n for n in public if not isinstance(getattr(hograd_core, n), type(re))} == set(hograd_core.__all__)


@pytest.mark.parametrize("title", GROUPS)
def test_a_group_holds_what_its_comment_says(title: str) -> None:
    things = {name: getattr(hograd_core, name) for name in GROUPS[title]}
    room = title.split(":")[0]
    if room == "errors and warnings":
        assert all(issubclass(thing, Exception) for thing in things.values())
    elif room == "records":
        assert {thing.__module__ for thing in things.values()} == {"hograd_core._registry"}
    else:
        assert {thing.__module__.split(".")[1] for thing in things.values()} == {room}


def test_all_operators_are_exported_and_else_a_handful() -> None:
    assert operators() <= set(hograd_core.__all__)
    assert len(set(hograd_core.__all__) - operators()) <= 15


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_what_operators_are_made_with_lies_beside_them(namespace: str) -> None:
    module = importlib.import_module(f"hograd_core.{namespace}")
    assert module.__all__ == sorted(module.__all__, key=lambda n: (not n.isupper(), n.islower(), n))
    for name in module.__all__:
        thing = getattr(module, name)
        assert thing.__doc__
        assert thing.__module__.startswith(f"hograd_core.{namespace.split('.')[0]}")
        assert name in operators() or name not in hograd_core.__all__, "one public place for a name"


def test_the_type_of_every_result_has_a_public_place() -> None:
    for record in hograd_core.operators().values():
        shown = typing.get_type_hints(record.guard)["return"]
        # A variable stands for the type of x, which is the caller's.
        assert isinstance(shown, typing.TypeVar) or "._" not in shown.__module__

"""Prepared kernels: what f refers to is seen when it changes."""

from __future__ import annotations

import functools
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from core_fakes import F64, normal
from prepare_fakes import V, X, close
from torch import Tensor, nn

import hograd_core as h
from hograd_core import prepare
from hograd_core.prepare._state import State


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8, dtype=F64)
        self.scale = 2.0
        self.table = {"shift": 0.5}

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).tanh() * self.scale + self.table["shift"]
        return y if self.training else y * 3


def _train(module: Scaled) -> None:
    module.eval()


def _scale(module: Scaled) -> None:
    module.scale = 5.0


def _table(module: Scaled) -> None:
    module.table["shift"] = 0.25


def _weight(module: Scaled) -> None:
    module.linear.weight = nn.Parameter(normal(8, 8, seed=9))


def _hook(module: Scaled) -> None:
    module.linear.register_forward_hook(lambda *a: a[2] * 7)


@pytest.mark.slow
@pytest.mark.parametrize("change", [_train, _scale, _table, _weight, _hook])
def test_changes_of_what_f_refers_to_make_a_new_trace(change: Callable[[Scaled], None]) -> None:
    module = Scaled()
    f = lambda x: module(x).square().sum() + x.pow(4).sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    b = p.bind(X)
    b(V)
    change(module)
    expected = h.hvp(f, X, V)
    assert close(b(V), expected)
    assert close(p(X, V), expected)
    assert p.traces == 2


def test_a_variable_or_a_global_name_that_changes() -> None:
    power = 3
    f = lambda x: (x**power).sum() * SETTINGS[0]  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    power = 4
    assert close(p(X, V), h.hvp(f, X, V))
    SETTINGS[0] = 3.0
    assert close(p(X, V), h.hvp(f, X, V))
    assert p.traces == 3


def test_another_object_of_the_same_number_is_no_change() -> None:
    scale = 2.5
    f = lambda x: (x.pow(3) * scale).sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    b = p.bind(X)
    b(V)
    binding = b.bindings[None]
    scale = float("2.5")
    assert close(b(V), h.hvp(f, X, V))
    assert close(p(X, V), h.hvp(f, X, V))
    assert p.traces == 1
    assert b.bindings[None] is binding


def test_a_variable_that_is_gone_is_the_functions_own_error() -> None:
    table = {"power": 3}
    f = lambda x: x.pow(table["power"]).sum()  # noqa: E731
    p = prepare(h.hvp, f, X, preparation="graph")
    b = p.bind(X)
    b(V)
    del table["power"]
    for call in (lambda: p(X, V), lambda: b(V)):
        with pytest.raises(KeyError, match="power"):
            call()


SETTINGS = [2.0]


def _put_anew(held: Any, key: Any, value: Any) -> None:
    del held[key]
    held[value] = "a"


MANY = 40
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "an empty dictionary": (dict, lambda held: held.update(a=1)),
    "an empty list": (list, lambda held: held.append(None)),
    "an entry more": (lambda: {"a": 1}, lambda held: held.update(b=1)),
    "an entry in the place of another": (lambda: {"a": None}, lambda held: (held.clear(), held.update(b=None))),
    "an equal number of another type": (lambda: {"a": 1}, lambda held: held.update(a=True)),
    "an equal float": (lambda: [1], lambda held: held.__setitem__(0, 1.0)),
    "an equal key of another type": (lambda: {1: "a"}, lambda held: _put_anew(held, 1, True)),
    "the order of entries": (lambda: {"a": None, "b": None}, lambda held: held.update(a=held.pop("a"))),
    "the order of an ordered dictionary": (lambda: OrderedDict(a=1, b=1), lambda held: held.move_to_end("a")),
    "one of many": (lambda: {str(i): i for i in range(MANY)}, lambda held: held.update({"7": "7"})),
    "one of a long list": (lambda: [*range(MANY)], lambda held: held.__setitem__(7, "7")),
    "a default that is gone": (lambda: defaultdict(int, a=0), lambda held: _put_anew(held, "a", "b")),
    "an entry that is gone": (lambda: {"a": 1}, lambda held: held.pop("a")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_what_is_held_is_seen_and_nothing_else(change: str) -> None:
    make, changed = CHANGES[change]
    held = make()
    state = State(lambda x: x * len(held))
    assert state.still()
    changed(held)
    now = [*held]
    assert not state.still()
    assert not state.holds()
    assert [*held] == now  # to look at it has not changed it


Change = Callable[[], None]


def _class_attribute() -> tuple[Any, Change]:
    class Cubed(nn.Module):
        scale = 2.0

        def forward(self, x: Tensor) -> Tensor:
            return x.pow(3).sum() * self.scale

    return Cubed(), lambda: setattr(Cubed, "scale", 3.0)


def _attribute_over_a_class_attribute() -> tuple[Any, Change]:
    module, _ = _class_attribute()
    return module, lambda: setattr(module, "scale", 3.0)


def _forward_of_an_instance() -> tuple[Any, Change]:
    module, _ = _class_attribute()
    return module, lambda: setattr(module, "forward", lambda x: x.pow(4).sum())


def _attribute_that_was_not_there() -> tuple[Any, Change]:
    class Cubed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.pow(4 if hasattr(self, "more") else 3).sum()

    module = Cubed()
    return module, lambda: setattr(module, "more", None)


class _Slotted:
    __slots__ = ("__dict__", "_scale")

    def __init__(self) -> None:
        self._scale = 2.0

    @property
    def scale(self) -> float:
        return self._scale * SETTINGS[0]

    def cubed(self, x: Tensor) -> Tensor:
        return x.pow(3).sum() * self.scale


class _Called(_Slotted):
    def __getitem__(self, i: int) -> float:
        return FACTORS[i]

    def __call__(self, x: Tensor) -> Tensor:
        return self.cubed(x) * self[0]


FACTORS = [1.0]


def _slot() -> tuple[Any, Change]:
    held = _Slotted()
    return held.cubed, lambda: setattr(held, "_scale", 4.0)


def _global_in_a_property() -> tuple[Any, Change]:
    return _Slotted().cubed, lambda: SETTINGS.__setitem__(0, SETTINGS[0] + 1)


def _global_in_a_method_without_a_name() -> tuple[Any, Change]:
    return _Called(), lambda: FACTORS.__setitem__(0, FACTORS[0] + 1)


def _python_module() -> tuple[Any, Change]:
    space = ModuleType("space")
    exec("SCALE = 2.0\ndef scaled(x):\n    return x * SCALE", vars(space))
    return lambda x: space.scaled(x.pow(3)).sum(), lambda: setattr(space, "SCALE", 3.0)


def _made_without_a_module() -> tuple[Any, Change]:
    space: dict[str, Any] = {}
    exec("S = 2.0\ndef f(x):\n    return (x ** 3).sum() * S", space)
    return space["f"], lambda: space.update(S=3.0)


def _wrapped_like_torchs() -> tuple[Any, Change]:
    scale = [2.0]

    @functools.wraps(torch.sin)
    def f(x: Tensor) -> Tensor:
        return x.pow(3).sum() * scale[0]

    f.__module__ = "torch"
    return f, lambda: scale.__setitem__(0, 3.0)


def _defaults() -> tuple[Any, Change]:
    def f(x: Tensor, power: int = 3) -> Tensor:
        return x.pow(power).sum()

    return f, lambda: setattr(f, "__defaults__", (4,))


def _code() -> tuple[Any, Change]:
    def f(x: Tensor) -> Tensor:
        return x.pow(3).sum()

    return f, lambda: setattr(f, "__code__", (lambda x: x.pow(4).sum()).__code__)


def _attribute_of_a_function() -> tuple[Any, Change]:
    def f(x: Tensor) -> Tensor:
        return x.pow(3).sum() * vars(f)["scale"] * f.scale  # type: ignore[attr-defined]

    f.scale = 2.0  # type: ignore[attr-defined]
    return f, lambda: setattr(f, "scale", 3.0)


def _attribute_of_torchs_object() -> tuple[Any, Change]:
    normal_ = torch.distributions.Normal(torch.zeros(8, dtype=F64), torch.ones(8, dtype=F64), validate_args=False)
    return lambda x: normal_.log_prob(x.square()).sum(), lambda: setattr(normal_, "scale", 2 * normal_.scale)


def _transformed_by_torch() -> tuple[Any, Change]:
    scale = [2.0]

    @torch.enable_grad()
    def f(x: Tensor) -> Tensor:
        return torch.func.vmap(lambda a: a.pow(3) * scale[0])(x).sum()

    return f, lambda: scale.__setitem__(0, 3.0)


def _vectorised_by_torch() -> tuple[Any, Change]:
    class Cubed(nn.Module):
        def forward(self, a: Tensor) -> Tensor:
            return a.pow(3) * (2 if self.training else 3)

    module = Cubed()
    many = torch.func.vmap(module)
    return lambda x: many(x).sum(), module.eval


def _entries_of_a_set() -> tuple[Any, Change]:
    held = {1.0}
    return lambda x: x.pow(3).sum() * sum(held), lambda: held.add(5.0)


@pytest.mark.parametrize(
    "make",
    [
        _class_attribute, _attribute_over_a_class_attribute, _forward_of_an_instance, _attribute_that_was_not_there,
        _slot, _global_in_a_property, _global_in_a_method_without_a_name, _python_module, _made_without_a_module,
        _wrapped_like_torchs, _defaults, _code, _attribute_of_a_function, _attribute_of_torchs_object,
        _transformed_by_torch, _vectorised_by_torch, _entries_of_a_set,
    ],
)  # fmt: skip
def test_changes_of_code_and_of_what_it_reads_are_seen(make: Callable[[], tuple[Any, Change]]) -> None:
    f, change = make()
    state, p = State(f), prepare(h.hvp, f, X, preparation="graph")
    assert state.holds()
    assert state.still()
    assert state.whole
    assert (p.preparation, p.traces) == ("graph", 1)
    before = p(X, V)
    change()
    assert not state.holds()
    assert not state.still()
    assert close(p(X, V), h.hvp(f, X, V))
    assert not close(p(X, V), before)
    assert p.traces == 2


def test_numbers_in_a_buffer_cannot_be_watched() -> None:
    held = bytearray(8)
    assert not State(lambda x: x.sum() * held[0]).whole

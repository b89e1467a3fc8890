"""The functions of examples/, as their users write them: advice on each, every printed program run, laws held to.

Nothing here depends on times: the budget never runs out, and which of the right methods is the fastest is not asked.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hograd_bench import advise as advising
from hograd_bench.advise import _plan
from hograd_bench.advise._advice import Advice
from hograd_bench.advise._asking import _advice
from hograd_bench.advise._foretelling import Foretold, foretell
from hograd_bench.advise._ranking import Ranking
from hograd_bench.advise._session import Session
from hograd_bench.laws.frames import ITEMSIZE
from hograd_bench.targets import Request
from hograd_bench.targets._load import load

import hograd_core

EXAMPLES = Path(__file__).parents[2] / "examples"
NEVER = 1e6  # seconds
ALL = ("gradient", "hvp", "hessian")
SDPA = "torch.nn.attention.sdpa_kernel"
NO_SETUP = "split its forward into forward and setup_context"
DO_NOT = "do not use it on this function"


class Example(NamedTuple):
    """What must come out.

    Attributes:
        shape: of x, where the name is f itself.
        needs: operators that are advised on where tests are to be short.
        moves: whether the peak of a gradient moves to another place between the small sizes and eight times its own.
        wrong: need -> method -> status and words of reason and remedy, where it is not right; of all others it is.
    """

    shape: tuple[int, ...] | None = None
    needs: tuple[str, ...] = ALL
    moves: bool = False
    wrong: dict[str, dict[str, tuple[str, str, str]]] = {}  # noqa: RUF012 (never written)


def all_of(status: str, reason: str, remedy: str, *methods: str) -> dict[str, tuple[str, str, str]]:
    return dict.fromkeys(methods, (status, reason, remedy))


TARGETS = {
    "rosenbrock": Example((8,), (*ALL, "hessian_diagonal")),
    "classifier": Example(
        needs=("gradient", "hvp"),
        wrong={
            "hvp": all_of("wrong", "exceeds the tolerance", "repair=True", "grad_of_jvp"),
            "hessian_diagonal": all_of("wrong", "exceeds the tolerance", "repair=True", "forward_over_forward"),
        },
    ),
    "clusters": Example(),
    "gaussian_process": Example(),
    "recurrent": Example(needs=("gradient", "hvp"), moves=True),
    "attention": Example(
        needs=("gradient", "hvp"),
        wrong={
            "hvp": {
                **all_of(
                    "unsupported", "no derivative formula: derivative for aten::_scaled_dot_product", SDPA,
                    "double_backward", "functional_hvp", "functional_vhp", "vjp_of_grad", "double_vjp",
                ),
                **all_of("unsupported", "no forward-mode formula", SDPA, "jvp_of_grad", "grad_of_jvp"),
            },
            "hessian": {
                **all_of(
                    "unsupported", "no derivative formula", SDPA,
                    "batched_rows", "rows", "functional", "functional_vectorized", "jacrev_of_grad", "coloured",
                ),
                **all_of("unsupported", "no forward-mode formula", SDPA, "func_hessian", "vmap_hvp"),
            },
            "hessian_diagonal": {
                **all_of(
                    "unsupported", "no derivative formula", SDPA, "layers", "columns", "full", "hutchinson",
                ),
                **all_of("unsupported", "no forward-mode formula", SDPA, "forward_over_forward"),
            },
        },
    ),
    "pinn": Example(),
    "mixture": Example(),
    "unsupported": Example(
        (6,),
        wrong={
            "gradient": all_of("unsupported", "custom Function without setup_context", NO_SETUP, "func"),
            "hvp": {
                **all_of("unsupported", "setup_context", NO_SETUP, "jvp_of_grad", "grad_of_jvp", "vjp_of_grad"),
                **all_of(
                    "wrong", "truth is by differences of gradients", DO_NOT,
                    "double_backward", "functional_hvp", "functional_vhp", "double_vjp",
                ),
            },
            "hessian": {
                **all_of("unsupported", "setup_context", NO_SETUP, "func_hessian", "jacrev_of_grad", "vmap_hvp"),
                **all_of(
                    "wrong", "truth is by differences of gradients", DO_NOT,
                    "batched_rows", "rows", "functional", "functional_vectorized", "coloured",
                ),
            },
            "hessian_diagonal": {
                **all_of("unsupported", "setup_context", NO_SETUP, "forward_over_forward"),
                **all_of("wrong", "exceeds the tolerance", DO_NOT, "layers", "columns", "full"),
                **all_of("refused", "wrong derivative", "repair=True", "hutchinson"),
            },
        },
    ),
}  # fmt: skip
NAMES = {"gradient": "g", "hvp": "hv", "hessian_diagonal": "d", "hessian": "H"}


def request_of(name: str) -> Request:
    shape = TARGETS[name].shape
    return Request(f"{EXAMPLES}/{name}.py:{'make' if shape is None else 'f'}", shape)


def test_every_example_is_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(TARGETS)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_advice_on_an_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, since torch is loaded here, nothing made ready; another test goes by name, through children."""
    request = request_of(name)
    session = Session(request, NEVER, wanted=TARGETS[name].needs, preparations=(), target=load(request))
    advice = _advice(session)
    held_to_what_is_expected(name, advice)
    the_program_runs_and_is_right(name, advice, monkeypatch)
    what_is_foretold_is_measured_there(name, advice)


@pytest.mark.skipif("HOGRAD_ADVISE" not in os.environ, reason="HOGRAD_ADVISE=1 takes half an hour of one's own")
@pytest.mark.parametrize("name", TARGETS)
def test_all_advice_on_an_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    advice = advising.advise_by_name(request_of(name), seconds=3000)
    held_to_what_is_expected(name, advice)
    the_program_runs_and_is_right(name, advice, monkeypatch)
    what_is_foretold_is_measured_there(name, advice)


def held_to_what_is_expected(name: str, advice: Advice) -> None:
    """Statuses, reasons, remedies, signs."""
    assert not advice.lost, advice.lost + advice.lost_more
    for ranking in advice.rankings:
        wrong = TARGETS[name].wrong.get(ranking.need.name, {})
        eager = [each for each in ranking.ranked if each.preparation == "eager"]
        assert {each.method for each in eager} == {
            method["name"] for method in _plan.methods(advice.described, ranking.need)
        }
        for each in eager:
            if each.method not in wrong:
                assert each.status == "ok", (each.method, each.reason)
                continue
            status, reason, remedy = wrong[each.method]
            assert each.status == status, (each.method, each.reason)
            assert reason in each.reason
            assert remedy in each.remedy
            assert each.method in str(advice)
        assert (ranking.best is None) == (not any(each.usable for each in eager)), ranking.why
        assert ranking.best is None or ranking.best.method not in wrong
    narrow = advice.described["dtype"] != "float64" and any(r.need.name == "hvp" for r in advice.rankings)
    assert {sign["name"] for sign in advice.signs} == ({"dtype and differences"} if narrow else set())


def the_program_runs_and_is_right(name: str, advice: Advice, monkeypatch: pytest.MonkeyPatch) -> None:
    """As printed; its results are those of other methods."""
    scope: dict[str, Any] = {}
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, name, raising=False)  # examples have short names
    exec(compile(advice.snippet(), f"{name} as printed", "exec"), scope)
    sys.modules.pop(name, None)
    for ranking in advice.rankings:
        assert (NAMES[ranking.need.name] in scope) == (ranking.best is not None)
    args = {"args": scope["args"]} if "args" in scope else {}
    for ranking in advice.rankings:
        others = [each.method for each in ranking.ranked if each.usable and each is not ranking.best]
        if ranking.best is None or not others:
            continue
        direction = (scope["v"],) if ranking.need.name == "hvp" else ()
        call = getattr(hograd_core, ranking.need.name)
        again = call(scope["f"], scope["x"], *direction, method=others[-1], **args)
        torch.testing.assert_close(scope[NAMES[ranking.need.name]], again, rtol=1e-3, atol=1e-3)


def what_is_foretold_is_measured_there(name: str, advice: Advice) -> None:
    """To the byte, at eight times the size, from small ones alone; or the peak moves in between, and no law is told."""
    sizes = advice.described["law_sizes"]
    assert bool(sizes) == (name != "gaussian_process")
    if not sizes:
        return
    small = advice.frame[advice.frame["n"] != sizes[-1]]
    for ranking in advice.rankings:
        for each in ranking.ranked:
            there = peak_at(advice.frame, advice, Ranking(ranking.need, (each,), each))
            blind = peak_at(small, advice, Ranking(ranking.need, (each,), each))
            if there is None:
                continue  # not among the best two, which have laws
            assert there.measured
            if blind is not None and blind.bytes != there.bytes:
                assert there.law != blind.law
            if ranking.need.name == "gradient" and name != "attention":
                assert blind is not None
                assert (blind.bytes == there.bytes) != TARGETS[name].moves, f"{each.method}: {blind.text}; {there.text}"
    (numel,) = advice.frame[advice.frame["n"] == sizes[-1]]["numel"].dropna().unique()
    for f in advice.foretold:
        assert f.method or f.bytes == numel**2 * ITEMSIZE[advice.described["dtype"]]


def peak_at(frame: Any, advice: Advice, ranking: Ranking) -> Foretold | None:
    """Of the one method of a ranking, at the largest size."""
    found = foretell(frame, advice.described, [ranking], advice.described["law_sizes"][-1:])
    return next((f for f in found if f.method), None)

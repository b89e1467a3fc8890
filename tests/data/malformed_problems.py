"""Problems that are not what they must be, among good ones: each is somebody's first try, or somebody's malice."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hograd_bench.problems import Draw, Instance, Spec, problem
from torch import Tensor


def declare(name: str, **more: Any) -> Callable[[Any], Any]:
    return problem(name, formula="\x1b[31mΣ\x1b[0m x⁴ :100:", source="tests", family="my own", sizes={"n": "n"}, **more)


def quartic(x: Tensor) -> Tensor:
    return (x**4).sum()


def of(name: str, f: Callable[[Tensor], Any]) -> None:
    """A problem whose factory is right and whose f is the given one."""
    declare(name)(lambda spec, draw: Instance(f, draw.normal(spec.n)))


def at(name: str, x: Callable[[Spec, Draw], Any], f: Callable[[Any], Any] = quartic, **more: Any) -> None:
    """A problem whose point is the given one."""
    declare(name, **more)(lambda spec, draw: Instance(f, x(spec, draw)))


def calling(what: Callable[[], Any]) -> Callable[[Tensor], Tensor]:
    """The quartic, which does something else first."""

    def f(x: Tensor) -> Tensor:
        what()
        return quartic(x)

    return f


def throwing(error: BaseException) -> Callable[[Tensor], Tensor]:
    def f(x: Tensor) -> Tensor:
        raise error

    return f


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Own(BaseException):
    pass


def patched(*arguments: Any, **keywords: Any) -> Any:
    return (torch.zeros(4),)


def misbehave() -> None:
    torch.set_default_dtype(torch.float16)
    torch.set_num_threads(2)
    torch.manual_seed(3)
    os.chdir("/")


def fork_once() -> None:
    if not hasattr(fork_once, "done"):
        fork_once.done = True  # type: ignore[attr-defined]
        os.fork()


def kinked(x0: Tensor) -> Instance:
    return Instance(lambda x: (x - x0).abs().sum() + quartic(x), x0)


built = itertools.count(1.0)


def changes_x(x: Tensor) -> Tensor:
    with torch.no_grad():
        x.add_(1.0)
    return quartic(x)


of("good_first", quartic)
declare("no_arguments")(lambda: Instance(quartic, torch.ones(4)))
declare("a_tuple")(lambda spec, draw: (quartic, draw.normal(spec.n)))
declare("nothing")(lambda spec, draw: None)
declare("factory_exits")(lambda spec, draw: sys.exit("bye"))
declare("factory_ends_it")(lambda spec, draw: os._exit(5))
declare("factory_raises")(lambda spec, draw: draw.normal(spec.n).no_such_attribute)
declare("no_function")(lambda spec, draw: Instance("x**4", draw.normal(spec.n)))  # type: ignore[arg-type]
declare("other_v")(lambda spec, draw: Instance(quartic, draw.normal(spec.n), v=draw.normal(spec.n + 1)))
at("x_tuple", lambda spec, draw: (draw.normal(spec.n), draw.normal(2)), lambda x: quartic(x[0]))
at("x_with_text", lambda spec, draw: (draw.normal(spec.n), "text"), lambda x: quartic(x[0]))
declare("a_batch")(lambda s, d: Instance(lambda x, a: a @ x["b"], {"b": d.normal(2)}, args=(d.normal(3, 2),)))
at("x_float32", lambda spec, draw: torch.ones(spec.n, dtype=torch.float32))
at("x_integers", lambda spec, draw: torch.arange(spec.n))
at("x_complex", lambda spec, draw: torch.ones(spec.n, dtype=torch.complex128))
at("x_meta", lambda spec, draw: torch.ones(spec.n, dtype=draw.dtype, device="meta"))
at("x_sparse", lambda spec, draw: draw.normal(spec.n).to_sparse(), lambda x: quartic(x.to_dense()))
at("x_empty", lambda spec, draw: draw.normal(0))
at("x_moves", lambda spec, draw: torch.full((spec.n,), next(built), dtype=draw.dtype))
at("x_parameter", lambda spec, draw: torch.nn.Parameter(draw.normal(spec.n)))
at("lacks_module", lambda spec, draw: draw.normal(spec.n), provides=("module",))
at("counts_wrongly", lambda spec, draw: draw.normal(spec.n), operations=lambda spec: 1 / 0)
of("returns_vector", lambda x: x**3)
of("returns_float", lambda x: float(quartic(x)))
of("returns_nothing", lambda x: None)
of("raises_mutely", throwing(MuteError()))
of("raises_colours", throwing(ValueError("\x1b[31mred\x1b[0m [bold]x[/bold] :100: \x07")))
of("raises_own", throwing(Own("own")))
of("leaves", throwing(GeneratorExit("gone")))
of("interrupts", throwing(KeyboardInterrupt()))
of("exits", throwing(SystemExit(3)))
of("skips", throwing(pytest.skip.Exception("not today")))
of("ends_it", calling(lambda: os._exit(0)))
of("kills_it", calling(lambda: os.kill(os.getpid(), signal.SIGTERM)))
of("forks", calling(fork_once))  # and goes on twice
of("recurses", throwing(RecursionError("maximum recursion depth exceeded")))
of("not_finite", lambda x: quartic(x) * float("nan"))
of("overflows", lambda x: quartic(x * 1e200))
of("changes_x", changes_x)
of("draws", lambda x: quartic(x * torch.rand(())))
declare("kink")(lambda spec, draw: kinked(draw.normal(spec.n)))
of("hides", lambda x: quartic(x) * x.detach().sum())
of("prints", calling(lambda: os.write(1, b'{"row": {}}\n') and print("x" * 100_000)))
of("misbehaves", calling(misbehave))
of("patches", calling(lambda: setattr(torch.autograd, "grad", patched)))
of("good_last", quartic)

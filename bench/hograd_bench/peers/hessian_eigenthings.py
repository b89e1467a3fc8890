"""hessian-eigenthings: eigenpairs and spectra of curvature operators (Golmant et al.; rewritten in 2026)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hograd_bench.peers._contract import Peer, Prepared, Task

PEER = Peer(
    "hessian_eigenthings",
    distribution="hessian-eigenthings",
    home="noahgolmant/pytorch-hessian-eigenthings",
    requires=("hessian-eigenthings", "tqdm"),
)

STEPS = 60
"""Lanczos steps an end: it takes all it is allowed, and 60 suffice for the eigenvalues of the contests."""


def _data(task: Task) -> list[Any]:
    return [(task.extra("inputs"), task.extra("targets"))]


def _value(task: Task) -> float:
    value: Tensor = task.extra("loss")(task.extra("module")(task.extra("inputs")), task.extra("targets"))
    return value.item()


def _hessian(task: Task) -> Any:
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(task.extra("module"), _data(task), supervised_loss(task.extra("loss")))


@PEER.method("hvp", "HessianOperator.matvec")
def hvp(task: Task) -> Prepared:
    """Double backward."""
    operator = _hessian(task)
    return Prepared(lambda: operator.matvec(task.v), lambda: _value(task))


@PEER.method("gauss_newton_vector_product", "GGNOperator.matvec")
def gauss_newton(task: Task) -> Prepared:
    """jvp, loss Hessian, vjp."""
    from hessian_eigenthings import GGNOperator, supervised_forward, supervised_loss_of_output

    operator = GGNOperator(
        task.extra("module"), _data(task), supervised_forward, supervised_loss_of_output(task.extra("loss"))
    )
    return Prepared(lambda: operator.matvec(task.v), lambda: _value(task))


@PEER.method(
    "hessian_extreme_eigenvalues", "lanczos, which='SA' and 'LA'", note=f"up to {STEPS} steps an end, no early stop"
)
def extreme_eigenvalues(task: Task) -> Prepared:
    """A Lanczos run an end, with full reorthogonalisation."""
    from hessian_eigenthings import lanczos

    operator = _hessian(task)
    steps = min(STEPS, operator.size)

    def end(which: Any) -> Tensor:
        found = lanczos(operator, k=1, max_iter=steps, tol=1e-8, reorthogonalize=True, which=which, seed=0)
        values: Tensor = found.eigenvalues
        return values

    return Prepared(lambda: torch.cat([end("SA"), end("LA")]), lambda: _value(task))

"""curvlinops: matrix-free curvature operators of models (Dangel et al. 2025)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hograd_bench.peers._contract import Peer, Prepared, Task

PEER = Peer(
    "curvlinops",
    distribution="curvlinops-for-pytorch",
    home="f-dangel/curvlinops",
    requires=(
        "curvlinops-for-pytorch", "einconv", "einops", "linear_operator", "opt_einsum", "tqdm",
        "backpack-for-pytorch", "unfoldNd",
    ),
)  # fmt: skip

_ONCE = "the operator stands, its checks at construction are not timed"


def _operator(kind: str, task: Task, **options: Any) -> Any:
    import curvlinops

    module = task.extra("module")
    parameters = [p for p in module.parameters() if p.requires_grad]
    data = [(task.extra("inputs"), task.extra("targets"))]
    return getattr(curvlinops, kind)(module, task.loss_module, parameters, data, **options)


def _value(task: Task) -> float:
    value: Tensor = task.loss_module(task.extra("module")(task.extra("inputs")), task.extra("targets"))
    return value.item()


def _product(kind: str, task: Task) -> Prepared:
    operator = _operator(kind, task)
    v = task.v
    return Prepared(lambda: operator @ v, lambda: _value(task))


@PEER.method("hvp", "HessianLinearOperator @ v", note=_ONCE)
def hvp(task: Task) -> Prepared:
    """jvp of the gradient by torch.func."""
    return _product("HessianLinearOperator", task)


@PEER.method("gauss_newton_vector_product", "GGNLinearOperator @ v", note=_ONCE)
def gauss_newton(task: Task) -> Prepared:
    """jvp, loss Hessian, vjp."""
    return _product("GGNLinearOperator", task)


@PEER.method("hessian", "HessianLinearOperator @ eye", note=_ONCE)
def hessian(task: Task) -> Prepared:
    """The dense matrix from one product with all unit vectors."""
    operator = _operator("HessianLinearOperator", task)
    n = task.x.numel()
    return Prepared(lambda: operator @ torch.eye(n, dtype=task.x.dtype), lambda: _value(task))


@PEER.method("kfac_vector_product", "KFACLinearOperator(fisher_type='type-2') @ v", note="check_deterministic=False")
def kfac(task: Task) -> Prepared:
    """Factors of the exact Fisher, weight and bias in one block, built from the batch and applied once."""
    from curvlinops import FisherType

    options = {"fisher_type": FisherType.TYPE2, "separate_weight_and_bias": False, "check_deterministic": False}

    def call() -> Tensor:
        result: Tensor = _operator("KFACLinearOperator", task, num_data=len(task.extra("targets")), **options) @ task.v
        return result

    return Prepared(call, lambda: _value(task))


@PEER.method(
    "hessian_extreme_eigenvalues", "scipy eigsh on HessianLinearOperator.to_scipy()", note=f"tol=1e-8; {_ONCE}"
)
def extreme_eigenvalues(task: Task) -> Prepared:
    """ARPACK at both ends at once."""
    from scipy.sparse.linalg import eigsh

    operator = _operator("HessianLinearOperator", task).to_scipy()

    def call() -> Tensor:
        values = eigsh(operator, k=2, which="BE", tol=1e-8, return_eigenvectors=False)
        return torch.as_tensor(sorted(values))

    return Prepared(call, lambda: _value(task))

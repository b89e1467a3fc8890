"""pounce: an interior-point solver whose PyTorch module compresses Hessians by colouring (Kitchin, jkitchin/pounce)."""

from __future__ import annotations

import torch

from hograd_bench.peers._contract import Peer, Prepared, Task
from hograd_core import UnsupportedError

PEER = Peer("pounce", distribution="pounce-solver", home="jkitchin/pounce", requires=("pounce-solver",))


@PEER.method("hessian", "from_torch(sparse=True)'s Hessian", note="float64 only; its pattern is found by dense probes")
def hessian(task: Task) -> Prepared:
    """The entries of the lower triangle that it finds not to be zero, spread to a matrix."""
    if task.x.dtype != torch.float64:
        raise UnsupportedError("pounce[hessian]", "computes in float64 alone; choose dtype = float64")
    from pounce.torch._build import _TorchProblem

    n = task.x.numel()
    made = _TorchProblem(task.f, None, n, 0, sparse=True, n_probes=3)
    rows, columns = (torch.as_tensor(places) for places in made.hessianstructure())
    point = task.x.numpy()

    def call() -> torch.Tensor:
        matrix = torch.zeros(n, n, dtype=torch.float64)
        values = torch.as_tensor(made.hessian(point, [], 1.0))
        matrix[rows, columns] = values
        matrix[columns, rows] = values
        return matrix

    return Prepared(call, task.value)

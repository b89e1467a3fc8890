"""pytorch-minimize: SciPy's minimisers in PyTorch (Feinman 2021)."""

from __future__ import annotations

from hograd_bench.peers._contract import Peer, Prepared, Task

PEER = Peer(
    "pytorch_minimize",
    distribution="pytorch-minimize",
    home="rfeinman/pytorch-minimize",
    requires=("pytorch-minimize",),
)

GRADIENT, STEP = 1e-5, 1e-8
"""What its tolerance means differs by method; with 1e-5 for the step too, newton-cg stops 5e-3 short."""


def _minimise(method: str) -> None:
    by_gradient = method.startswith("trust")
    tolerance = GRADIENT if by_gradient else STEP
    kind = "a gradient norm" if by_gradient else "a mean relative step"

    @PEER.method(
        "local_minimum",
        f"minimize(method={method!r})",
        variant=method.replace("-", "_"),
        note=f"stops at {kind} of {tolerance:g}",
    )
    def build(task: Task) -> Prepared:
        from torchmin import minimize

        return Prepared(lambda: minimize(task.f, task.x, method=method, tol=tolerance).x, task.value)


for _method in ("newton-cg", "newton-exact", "trust-ncg", "trust-exact", "trust-krylov"):
    _minimise(_method)

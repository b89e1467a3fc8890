"""pytorch-minimize: SciPy's minimisers in PyTorch (Feinman 2021)."""

from __future__ import annotations

from typing import Any

from hograd_bench.peers._contract import Build, Contestant, Peer, Task

PEER = Peer(
    "pytorch-minimize",
    distribution="pytorch-minimize",
    module="torchmin",
    home="rfeinman/pytorch-minimize",
    requires=("pytorch-minimize",),
)

GRADIENT, STEP = 1e-5, 1e-8
"""What its tolerance means differs by method; with 1e-5 for the step too, newton-cg stops 5e-3 short."""


def _minimize(method: str) -> Build:
    def build(task: Task) -> Contestant:
        from torchmin import minimize

        by_gradient = method.startswith("trust")
        tolerance = GRADIENT if by_gradient else STEP

        def call() -> Any:
            return minimize(task.f, task.x, method=method, tol=tolerance).x

        kind = "a gradient norm" if by_gradient else "a mean relative step"
        return Contestant(call, task.value, note=f"stops at {kind} of {tolerance:g}")

    return build


for _method in ("newton-cg", "newton-exact", "trust-ncg", "trust-exact", "trust-krylov"):
    PEER.offer("minimize", f"minimize(method={_method!r})")(_minimize(_method))

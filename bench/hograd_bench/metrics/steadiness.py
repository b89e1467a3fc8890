"""Whether a kernel is still right later: after all other calls, and after its arguments changed in place.

What a kernel remembers of calls before, or writes into its arguments, is wrong there. Both are judged by float64 truth,
and a row in which one fails is ``wrong``. With HOGRAD_KEEP_RESULTS the results themselves are left in that folder, so
that the gate can compare two sides.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hograd_bench.metrics._contract import Metric, Missing, Readings, Value

if TYPE_CHECKING:
    from torch import Tensor

    from hograd_bench.metrics._subject import Subject

TURN = 99  # after all others, whose calls a kernel may remember; and it leaves the arguments changed
ON_REQUEST = True  # the gate asks: a second truth is slow at large sizes
KEEP = "HOGRAD_KEEP_RESULTS"
"""Environment variable: an existing folder for the results, see :func:`save`."""
_TRUTH = "hograd_core.reference in float64 on the CPU"
METRICS = (
    Metric(
        "steady", "bool", True, _TRUTH, "whether a call after all others is as right as the first", direction="higher"
    ),
    Metric(
        "follows_arguments",
        "bool",
        True,
        _TRUTH,
        "whether the result is right after every argument was halved in place",
        direction="higher",
    ),
)

# Rounding of a refactored kernel stays within some thousand units of the last place of the largest entry; a
# wrong term does not. Low-precision dtypes are capped, or the bound would say nothing.
ULPS = 4096.0
CAP = 0.05
INEXACT = 0.5


def measure(subject: Subject) -> Readings:
    """Call the subject again, then once more with every argument halved in place, and judge both.

    Args:
        subject: the cell made callable; its arguments are changed afterwards.

    Returns:
        Both flags; missing where no truth is known there. ``wrong`` says why one is false. Cost: two calls, and the
        truth at the halved arguments (slow by design).
    """
    from hograd_bench.metrics._calls import repeatable
    from hograd_bench.metrics.accuracy import against

    call = repeatable(lambda: subject.tensors(subject.call()))
    result = call()
    read = Readings(details={"results": {"allowed": allowed(subject), **_kept(result, subject.cell.id)}})
    why = against(subject, result, subject.precise(), "")
    read.values["steady"] = _flag(why)
    if why:
        read.wrong = f"a later call with the same arguments gives another result: {why}"
    if subject.peer is not None:
        read.values["follows_arguments"] = Missing("a peer's arguments are its own, made once from the problem's")
        return read
    halve((subject.arguments, subject.instance.own.args))
    try:
        result = call()
    except Exception as error:  # singular there, say; where the other side runs, the gate will see it
        read.values["follows_arguments"] = Missing(f"it fails at halved arguments: {type(error).__name__}")
        read.details["results"]["fails_halved"] = True
        return read
    exact = subject.precise()
    halve((exact.call(subject.operator)[0], exact.own.args))
    why = against(subject, result, exact, "half")
    read.values["follows_arguments"] = _flag(why)
    if why and not read.wrong:
        read.wrong = f"after its arguments were halved in place, as if it remembered earlier calls: {why}"
    read.details["results"] |= {f"halved_{k}": v for k, v in _kept(result, f"{subject.cell.id}/halved").items()}
    return read


def _flag(why: str | None) -> Value:
    return Missing("no truth is known there") if why is None else not why


def halve(arguments: tuple[Any, ...]) -> None:
    """Halve floating-point tensors, in tuples, lists and mappings too, and the parameters of modules, in place.

    Once each, however often they are met; one that cannot be written to (an expanded one, say) stays.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    found: dict[int, Tensor] = {}
    for leaf in tree_leaves(arguments):
        for tensor in leaf.parameters() if isinstance(leaf, torch.nn.Module) else [leaf]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                found[id(tensor)] = tensor
    for tensor in found.values():
        with torch.no_grad(), contextlib.suppress(RuntimeError):
            tensor.mul_(0.5)  # exact in any binary format


def allowed(subject: Subject) -> float:
    """How far two implementations' results of a cell may lie apart, relative to the largest entry.

    Methods that carry sampling or truncation error by design and state no tolerance get :data:`INEXACT`.
    """
    import torch

    eps, order = torch.finfo(subject.dtype).eps, subject.cell.order
    rounding = min(CAP, ULPS * eps * max(1, order))
    if subject.method.tolerance is not None:
        return max(float(subject.method.tolerance(eps, order)), rounding)
    return rounding if subject.method.exact else INEXACT


def save(result: Any, path: Path) -> list[list[int]]:
    """Write every tensor of a result as little-endian float64, in tree order, dense; returns their shapes."""
    import torch
    from torch.utils._pytree import tree_leaves

    shapes: list[list[int]] = []
    with open(path, "wb") as file:
        for leaf in tree_leaves(result):
            if isinstance(leaf, int | float | complex | torch.Tensor):
                tensor = torch.as_tensor(leaf).detach()
                if tensor.layout != torch.strided:
                    tensor = tensor.to_dense()
                if tensor.is_complex():
                    tensor = torch.view_as_real(tensor.resolve_conj())
                shapes.append(list(tensor.shape))
                file.write(tensor.to("cpu", torch.float64).contiguous().numpy().tobytes())
    return shapes


def _kept(result: Any, name: str) -> dict[str, Any]:
    folder = os.environ.get(KEEP)
    if not folder:
        return {}
    path = Path(folder, name.replace("/", "_") + ".f64")
    return {"shapes": save(result, path), "file": path.name}

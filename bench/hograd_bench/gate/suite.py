"""What the suite of a side has; the gate calls this in a process of that side."""

from __future__ import annotations

import os
import sys
from typing import Any


def describe(with_preset: bool) -> dict[str, Any]:
    """Its key, methods, problems, metrics and families of exact metrics, as JSON; and the cells of its own gate.

    Args:
        with_preset: whether to list those cells ("preset"); "unlisted" says why they cannot be.
    """
    import torch

    import hograd_core
    from hograd_bench import measure, metrics, problems

    found: dict[str, Any] = {
        "suite": os.path.realpath(str(hograd_core.__file__)),
        "torch": str(torch.__version__),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "machine": os.uname().machine if hasattr(os, "uname") else sys.platform,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "methods": sorted(f"{o.name}/{method}" for o in hograd_core.operators().values() for method in o.methods),
        "problems": sorted(problems.problems()),
        "families": list(measure.DETERMINISTIC),
        "metrics": metrics.as_json(),
    }
    if with_preset:
        try:
            from hograd_bench.gate import preset

            found["preset"] = [cell.id for cell in preset.cells()]
        except Exception as error:  # the head's own cells are left to compare, and the gate says so
            found["unlisted"] = f"{type(error).__name__}: {error}"
    return found

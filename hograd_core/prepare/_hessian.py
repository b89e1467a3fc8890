"""How a task is made into a kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from torch import Tensor

from hograd_core.prepare._build import Kernel, plain
from hograd_core.prepare._task import Task


def maker(task: Task, tensors: Sequence[Tensor]) -> Callable[[str], Kernel]:
    """What makes the kernel of a preparation."""
    return functools.partial(plain, task.kernel, tensors)

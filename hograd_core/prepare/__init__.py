"""Operators made ready for many calls: traced, cleaned, compiled, compared with the eager method, and guarded.

:func:`prepare` is the entrance. A derivative is traced to a graph of aten operations and cleaned (:mod:`.graphs`), and
run op by op, by inductor (:mod:`.inductor`) or as a CUDA graph (:mod:`._build`).
"""

from hograd_core.prepare._bound import Bound as Bound
from hograd_core.prepare._build import PREPARATIONS as PREPARATIONS
from hograd_core.prepare._prepare import prepare as prepare
from hograd_core.prepare._prepared import Prepared as Prepared
from hograd_core.prepare.graphs._trace import assume as assume
from hograd_core.prepare.graphs._trace import tracing as tracing

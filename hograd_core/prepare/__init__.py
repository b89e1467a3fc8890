"""Operators made ready for many calls: traced, cleaned, compiled, compared with the eager method, and guarded.

:func:`prepare` is the entrance. A derivative is traced to a graph of aten operations (:mod:`._trace`), which is cleaned
(:mod:`._passes`, :mod:`._merge`) and run op by op, by inductor or as a CUDA graph (:mod:`._build`).
"""

from hograd_core.prepare._bound import Bound as Bound
from hograd_core.prepare._build import PREPARATIONS as PREPARATIONS
from hograd_core.prepare._prepare import prepare as prepare
from hograd_core.prepare._prepared import Prepared as Prepared
from hograd_core.prepare._trace import assume as assume
from hograd_core.prepare._trace import tracing as tracing

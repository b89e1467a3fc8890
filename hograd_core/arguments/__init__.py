"""Arguments as people have them, made what methods take; results made what people gave.

A method computes with one tensor x, directions like it, and f of x alone. People have parameters in dicts, data that f
needs beside x, batches of points, and a limit of memory. Between the two stands :func:`arrange`, which every operator
goes through at its entrance (``Operator.__call__``) and no method knows of:

    f, x, v  --pack-->  g, flat, direction  --guard, method, verification-->  result  --shape-->  the caller's structure

- **Structures** (:mod:`._packing`). Leaves are laid end to end in one flat tensor, in their common (widest) dtype; g
  cuts it into leaves again, each in its own shape, dtype and device, and calls f with the structure. All steps between
  are linear and exact, so that every method, the guard and ``verify`` see f as it is, and derivatives are those in the
  leaves. A result of the shape of x comes back as the structure, a derivative tensor as a structure of structures.
- **Further arguments.** ``args`` follow x in calls of f. They are constants of this derivative.
- **Batches** (:mod:`._batches`). ``in_dims``, as of ``torch.vmap``: by vmap where the method can, else in a loop.
- **Memory** (:mod:`._memory`). A limit becomes a chunk of what is vectorised.

A single tensor without any of these goes none of this way, and costs what it did.
"""

from hograd_core.arguments._arrangement import ASKED, Arranged, Asked, Taking, arranged, point_of, taking
from hograd_core.arguments._batches import Batch, batch, stacked, vectorised
from hograd_core.arguments._memory import Budget, MemoryBudgetError, as_bytes, check_fits, in_chunks, slices
from hograd_core.arguments._packing import Packing, packing
from hograd_core.arguments._parameters import Part, constants_of, trainable_of
from hograd_core.arguments._sum import Term, WeightedSum, changed
from hograd_core.arguments._tree import leaves, mapped

__all__ = [
    "ASKED", "Arranged", "Asked", "Batch", "Budget", "MemoryBudgetError", "Packing", "Part", "Taking", "Term",
    "WeightedSum", "arranged", "as_bytes", "batch", "changed", "check_fits", "constants_of", "in_chunks", "leaves",
    "mapped", "packing", "point_of", "slices", "stacked", "taking", "trainable_of", "vectorised",
]  # fmt: skip

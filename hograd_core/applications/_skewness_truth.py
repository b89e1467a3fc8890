"""The truth of the directional skewness: from the reference of its two derivatives."""

from __future__ import annotations

from torch import Tensor

from hograd_core._checks import ScalarFunction
from hograd_core.applications.skewness import directional_skewness
from hograd_core.reference import Truth, true_value, truth


@truth(directional_skewness)
def _directional_skewness(f: ScalarFunction, x: Tensor, v: Tensor) -> Truth:
    second, third = (true_value("directional_derivative", f, x, v, order=k) for k in (2, 3))
    scales = [t.scale or float(abs(t.value)) for t in (second, third)]
    # The ratio follows from the two; where the curvature is not positive it has no value to compare.
    return Truth({"second": second.value, "third": third.value}, max(scales))

"""The truth of the directional skewness: from the reference of its two derivatives."""

from __future__ import annotations

from torch import Tensor

from hograd_core._checks import ScalarFunction
from hograd_core.applications.skewness import Skewness, directional_skewness
from hograd_core.reference import reference, truth


@truth(directional_skewness)
def _directional_skewness(f: ScalarFunction, x: Tensor, v: Tensor) -> Skewness | dict[str, Tensor]:
    second, third = (reference("directional_derivative", f, x, v, order=k) for k in (2, 3))
    if second > 0:
        return Skewness(third / second**1.5, second, third)
    # No value to compare where the ratio is not defined.
    return {"second": second, "third": third}

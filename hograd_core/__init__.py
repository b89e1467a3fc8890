"""hograd_core: higher-order derivatives in PyTorch, every known way, side by side. Depends on torch alone."""

from hograd_core._registry import Method as Method
from hograd_core._registry import Operator as Operator
from hograd_core._registry import operators as operators
from hograd_core._registry import resolve as resolve
from hograd_core._unsupported import UnsupportedError as UnsupportedError

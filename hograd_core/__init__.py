"""hograd_core: higher-order derivatives in PyTorch, every known way, side by side. Depends on torch alone."""

# The machinery.
from hograd_core._registry import Method as Method
from hograd_core._registry import Operator as Operator
from hograd_core._registry import operators as operators
from hograd_core._registry import resolve as resolve
from hograd_core._unsupported import UnsupportedError as UnsupportedError

# Derivatives of any order.
from hograd_core.derivatives.derivative_tensor import derivative_tensor as derivative_tensor
from hograd_core.derivatives.derivative_tensor import hessian as hessian
from hograd_core.derivatives.derivative_vector_product import derivative_vector_product as derivative_vector_product
from hograd_core.derivatives.derivative_vector_product import hvp as hvp
from hograd_core.derivatives.directional_derivative import directional_derivative as directional_derivative
from hograd_core.derivatives.gradient import gradient as gradient

# Taylor mode.
from hograd_core.taylor import MissingRuleError as MissingRuleError
from hograd_core.taylor import methods as _taylor_methods  # noqa: F401 (registers its methods)

# From modules.
from hograd_core.module import from_module as from_module

"""hograd_core: higher-order derivatives in PyTorch, every known way, side by side. Depends on torch alone.

Here are the operators, each with all its methods, and what every user meets. What they are made with lies beside them,
in ``hograd_core.curvature`` (linear operators, estimators, eigenpairs, KFAC), ``hograd_core.solvers`` (conjugate
gradients, minimisers) and ``hograd_core.applications``: ``pinn`` (equations, residuals), ``gradient_penalty`` and
``maml``.
"""

from hograd_core._differences import NotVerifiedWarning, VerificationError
from hograd_core._finite import NotFiniteWarning
from hograd_core._registry import Method, Operator, explain, operators, resolve
from hograd_core._unsupported import UnsupportedError
from hograd_core.applications import _truth as _applications_truth  # noqa: F401 (registers its truths)
from hograd_core.applications.gradient_penalty import gradient_penalty, lipschitz_penalty, r1_penalty
from hograd_core.applications.maml import meta_gradient
from hograd_core.applications.pinn import bilaplacian, laplacian, partial_derivatives, residual_loss
from hograd_core.applications.skewness import directional_skewness
from hograd_core.arguments import MemoryBudgetError
from hograd_core.curvature import _truth as _curvature_truth  # noqa: F401 (registers its truths)
from hograd_core.curvature.diagonal import hessian_diagonal
from hograd_core.curvature.empirical_fisher import empirical_fisher_diagonal, empirical_fisher_matrix
from hograd_core.curvature.fisher import fisher_diagonal, fisher_matrix, fisher_vector_product
from hograd_core.curvature.gauss_newton import gauss_newton_matrix, gauss_newton_vector_product
from hograd_core.curvature.spectrum import hessian_extreme_eigenvalues, hessian_spectral_density
from hograd_core.curvature.trace import hessian_trace
from hograd_core.derivatives.derivative_tensor import derivative_tensor, hessian
from hograd_core.derivatives.derivative_vector_product import derivative_vector_product, hvp
from hograd_core.derivatives.directional_derivative import directional_derivative
from hograd_core.derivatives.gradient import gradient
from hograd_core.module import from_module
from hograd_core.prepare import prepare
from hograd_core.solvers import _cubic_truth  # noqa: F401 (registers its truth)
from hograd_core.solvers import _truth as _solvers_truth  # noqa: F401 (registers its truths)
from hograd_core.solvers._newton_cg import newton_cg_step
from hograd_core.solvers.cubic import cubic_newton_step
from hograd_core.solvers.natural_gradient import inverse_fisher_vector_product, natural_gradient_step
from hograd_core.sparse import _truth as _sparse_truth  # noqa: F401 (registers its truth)
from hograd_core.sparse.hessian import sparse_hessian
from hograd_core.taylor import MissingRuleError
from hograd_core.taylor import methods as _taylor_methods  # noqa: F401 (registers its methods)
from hograd_core.training import _truth as _training_truth  # noqa: F401 (registers its truths)
from hograd_core.training.steps import (
    critic_training_step,
    meta_training_step,
    natural_training_step,
    newton_training_step,
    pinn_training_step,
)
from hograd_core.verification import Verification, verify

__all__ = [  # noqa: RUF022 (in groups)
    # derivatives: of a function, of any order
    "gradient", "derivative_tensor", "hessian", "derivative_vector_product", "hvp", "directional_derivative",
    # sparse: of functions whose Hessian has few entries
    "sparse_hessian",
    # curvature: of functions, and of models
    "hessian_diagonal", "hessian_trace", "hessian_extreme_eigenvalues", "hessian_spectral_density",
    "gauss_newton_matrix", "gauss_newton_vector_product", "fisher_matrix", "fisher_diagonal", "fisher_vector_product",
    "empirical_fisher_matrix", "empirical_fisher_diagonal",
    # solvers: steps on curvature
    "newton_cg_step", "cubic_newton_step", "inverse_fisher_vector_product", "natural_gradient_step",
    # applications: where higher orders are used
    "partial_derivatives", "laplacian", "bilaplacian", "residual_loss", "gradient_penalty", "lipschitz_penalty",
    "r1_penalty", "meta_gradient", "directional_skewness",
    # training: steps with and without their second-order part
    "critic_training_step", "meta_training_step", "natural_training_step", "newton_training_step", "pinn_training_step",
    # module: an nn.Module and its loss as a function of one vector
    "from_module",
    # prepare: an operator made ready for many calls
    "prepare",
    # verification: whether derivatives are right
    "verify", "Verification",
    # errors and warnings
    "UnsupportedError", "MissingRuleError", "VerificationError", "NotVerifiedWarning", "NotFiniteWarning",
    "MemoryBudgetError",
    # records: operators and methods, to query
    "Operator", "Method", "operators", "resolve", "explain",
]  # fmt: skip

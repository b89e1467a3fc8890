"""hograd_core: higher-order derivatives in PyTorch, every known way, side by side. Depends on torch alone."""

# The machinery.
from hograd_core._differences import NotVerifiedWarning as NotVerifiedWarning
from hograd_core._differences import VerificationError as VerificationError
from hograd_core._finite import NotFiniteWarning as NotFiniteWarning
from hograd_core._registry import Method as Method
from hograd_core._registry import Operator as Operator
from hograd_core._registry import operators as operators
from hograd_core._registry import resolve as resolve
from hograd_core._unsupported import UnsupportedError as UnsupportedError

# Applications.
from hograd_core.applications import _truth as _applications_truth  # noqa: F401 (registers its truths)
from hograd_core.applications._equations import Equation as Equation
from hograd_core.applications._equations import beam as beam
from hograd_core.applications._equations import burgers as burgers
from hograd_core.applications._equations import heat as heat
from hograd_core.applications._equations import kuramoto_sivashinsky as kuramoto_sivashinsky
from hograd_core.applications.gradient_penalty import Penalty as Penalty
from hograd_core.applications.gradient_penalty import draw_mixing as draw_mixing
from hograd_core.applications.gradient_penalty import gradient_penalty as gradient_penalty
from hograd_core.applications.gradient_penalty import half_square as half_square
from hograd_core.applications.gradient_penalty import interpolate as interpolate
from hograd_core.applications.gradient_penalty import lipschitz_penalty as lipschitz_penalty
from hograd_core.applications.gradient_penalty import one_sided as one_sided
from hograd_core.applications.gradient_penalty import penalty as penalty
from hograd_core.applications.gradient_penalty import r1_penalty as r1_penalty
from hograd_core.applications.gradient_penalty import two_sided as two_sided
from hograd_core.applications.maml import MetaGradient as MetaGradient
from hograd_core.applications.maml import Task as Task
from hograd_core.applications.maml import adapt as adapt
from hograd_core.applications.maml import meta_gradient as meta_gradient
from hograd_core.applications.pinn import FieldEstimate as FieldEstimate
from hograd_core.applications.pinn import ResidualLoss as ResidualLoss
from hograd_core.applications.pinn import bilaplacian as bilaplacian
from hograd_core.applications.pinn import field_derivatives as field_derivatives
from hograd_core.applications.pinn import gaussian_bilaplacian as gaussian_bilaplacian
from hograd_core.applications.pinn import hutchinson_laplacian as hutchinson_laplacian
from hograd_core.applications.pinn import laplacian as laplacian
from hograd_core.applications.pinn import partial_derivatives as partial_derivatives
from hograd_core.applications.pinn import residual as residual
from hograd_core.applications.pinn import residual_loss as residual_loss
from hograd_core.applications.pinn import sampled_laplacian as sampled_laplacian
from hograd_core.applications.skewness import Skewness as Skewness
from hograd_core.applications.skewness import directional_skewness as directional_skewness

# Curvature of functions and of models.
from hograd_core.curvature import _truth as _curvature_truth  # noqa: F401 (registers its truths)
from hograd_core.curvature._estimators import Estimate as Estimate
from hograd_core.curvature._estimators import hutch_plus_plus as hutch_plus_plus
from hograd_core.curvature._estimators import hutchinson_trace as hutchinson_trace
from hograd_core.curvature._estimators import stochastic_diagonal as stochastic_diagonal
from hograd_core.curvature._estimators import xtrace as xtrace
from hograd_core.curvature._kronecker import KFAC as KFAC
from hograd_core.curvature.diagonal import hessian_diagonal as hessian_diagonal
from hograd_core.curvature.empirical_fisher import empirical_fisher_diagonal as empirical_fisher_diagonal
from hograd_core.curvature.empirical_fisher import empirical_fisher_matrix as empirical_fisher_matrix
from hograd_core.curvature.fisher import fisher_diagonal as fisher_diagonal
from hograd_core.curvature.fisher import fisher_matrix as fisher_matrix
from hograd_core.curvature.fisher import fisher_vector_product as fisher_vector_product
from hograd_core.curvature.fisher import sampled_fisher_diagonal as sampled_fisher_diagonal
from hograd_core.curvature.gauss_newton import gauss_newton_matrix as gauss_newton_matrix
from hograd_core.curvature.gauss_newton import gauss_newton_vector_product as gauss_newton_vector_product
from hograd_core.curvature.kfac import kfac as kfac
from hograd_core.curvature.lanczos import Eigenpairs as Eigenpairs
from hograd_core.curvature.lanczos import SpectralDensity as SpectralDensity
from hograd_core.curvature.lanczos import extreme_eigenpairs as extreme_eigenpairs
from hograd_core.curvature.lanczos import lanczos as lanczos
from hograd_core.curvature.lanczos import spectral_density as spectral_density
from hograd_core.curvature.linear_operator import ArrayOperator as ArrayOperator
from hograd_core.curvature.linear_operator import HessianOperator as HessianOperator
from hograd_core.curvature.linear_operator import MatrixOperator as MatrixOperator
from hograd_core.curvature.spectrum import hessian_extreme_eigenvalues as hessian_extreme_eigenvalues
from hograd_core.curvature.spectrum import hessian_spectral_density as hessian_spectral_density
from hograd_core.curvature.spectrum import lobpcg as lobpcg
from hograd_core.curvature.trace import hessian_trace as hessian_trace

# Derivatives of any order.
from hograd_core.derivatives.derivative_tensor import derivative_tensor as derivative_tensor
from hograd_core.derivatives.derivative_tensor import hessian as hessian
from hograd_core.derivatives.derivative_vector_product import derivative_vector_product as derivative_vector_product
from hograd_core.derivatives.derivative_vector_product import hvp as hvp
from hograd_core.derivatives.directional_derivative import directional_derivative as directional_derivative
from hograd_core.derivatives.gradient import gradient as gradient

# From modules.
from hograd_core.module import from_module as from_module
from hograd_core.solvers import _cubic_truth  # noqa: F401 (registers its truth)

# Solvers on curvature.
from hograd_core.solvers import _truth as _solvers_truth  # noqa: F401 (registers its truths)
from hograd_core.solvers.conjugate_gradient import CGResult as CGResult
from hograd_core.solvers.conjugate_gradient import conjugate_gradient as conjugate_gradient
from hograd_core.solvers.cubic import CubicResult as CubicResult
from hograd_core.solvers.cubic import CubicStep as CubicStep
from hograd_core.solvers.cubic import cubic_newton_step as cubic_newton_step
from hograd_core.solvers.cubic import minimize_cubic_newton as minimize_cubic_newton
from hograd_core.solvers.minimize import NewtonResult as NewtonResult
from hograd_core.solvers.minimize import minimize_newton as minimize_newton
from hograd_core.solvers.natural_gradient import inverse_fisher_vector_product as inverse_fisher_vector_product
from hograd_core.solvers.natural_gradient import natural_gradient_step as natural_gradient_step
from hograd_core.solvers.newton_cg import newton_cg as newton_cg
from hograd_core.solvers.newton_cg import newton_cg_step as newton_cg_step

# Taylor mode.
from hograd_core.taylor import MissingRuleError as MissingRuleError
from hograd_core.taylor import methods as _taylor_methods  # noqa: F401 (registers its methods)

# Training steps with and without their second-order part.
from hograd_core.training import _truth as _training_truth  # noqa: F401 (registers its truths)
from hograd_core.training.steps import critic_training_step as critic_training_step
from hograd_core.training.steps import meta_training_step as meta_training_step
from hograd_core.training.steps import natural_training_step as natural_training_step
from hograd_core.training.steps import newton_training_step as newton_training_step
from hograd_core.training.steps import pinn_training_step as pinn_training_step

# Whether derivatives are right.
from hograd_core.verification import Verification as Verification
from hograd_core.verification import verify as verify

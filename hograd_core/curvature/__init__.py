"""Curvature of functions and of models: diagonals, traces, Gauss–Newton, Fisher, KFAC, spectra."""

from hograd_core.curvature._arrays import ArrayOperator
from hograd_core.curvature._estimators import Estimate, hutch_plus_plus, hutchinson_trace, stochastic_diagonal, xtrace
from hograd_core.curvature._kfac import kfac
from hograd_core.curvature._kronecker import KFAC
from hograd_core.curvature._lanczos import Eigenpairs, SpectralDensity, extreme_eigenpairs, lanczos, spectral_density
from hograd_core.curvature.blocks import Block, groups_of, hessian_blocks, model_blocks
from hograd_core.curvature.fisher import sampled_fisher_diagonal
from hograd_core.curvature.linear_operator import HessianOperator, MatrixOperator
from hograd_core.curvature.spectrum import lobpcg

__all__ = [
    "KFAC", "ArrayOperator", "Block", "Eigenpairs", "Estimate", "HessianOperator", "MatrixOperator", "SpectralDensity",
    "extreme_eigenpairs", "groups_of", "hessian_blocks", "hutch_plus_plus", "hutchinson_trace", "kfac", "lanczos",
    "lobpcg", "model_blocks", "sampled_fisher_diagonal", "spectral_density", "stochastic_diagonal", "xtrace",
]  # fmt: skip

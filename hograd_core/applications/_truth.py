"""Registers the truths of all applications."""

from hograd_core.applications import _maml_truth as _maml_truth
from hograd_core.applications import _penalty_truth as _penalty_truth
from hograd_core.applications import _pinn_truth as _pinn_truth
from hograd_core.applications import _skewness_truth as _skewness_truth

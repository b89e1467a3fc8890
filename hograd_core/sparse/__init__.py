"""Hessians with few entries that are not zero: their pattern, and their values in a product a colour of it."""

from hograd_core.sparse.hessian import SparseHessian

__all__ = ["SparseHessian"]

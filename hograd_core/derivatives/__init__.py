"""Derivatives of a scalar function at any order: an operator a file, its methods side by side."""

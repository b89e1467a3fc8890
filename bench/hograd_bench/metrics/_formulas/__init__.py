"""Formulas for floating-point operations, a file a kind of operator; conventions in ``_flops``."""

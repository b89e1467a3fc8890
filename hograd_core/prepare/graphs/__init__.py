"""A derivative as a graph of aten operations: traced, and made smaller by passes that keep what it computes.

:mod:`_trace` records f, :mod:`_passes` and :mod:`_merge` clean, :mod:`_split` tells what depends on x alone from the
rest, :mod:`_peak` foretells bytes. The next pass is a module here, called by :mod:`hograd_core.prepare._build`.
"""

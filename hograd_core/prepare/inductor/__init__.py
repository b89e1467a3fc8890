"""A graph as a compiled kernel. All of inductor that torch promises to nobody is used in this folder alone.

It was tested with torch 2.13.0 and 2.14.1 on the CPU, both of which have all of it. Where one of these interfaces is
gone or fails, the graph is run without it, and the reason says so. :mod:`_compile` is the entrance; :mod:`_products`
and :mod:`_convolutions` are loops of our own, taught by :mod:`_loops`; :mod:`_kept` and :mod:`_key` find kernels of
earlier processes.
"""

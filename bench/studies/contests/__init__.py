"""Contests timed in turns between processes: hograd's kernels beside another package's, on the same cores.

Run by the interpreter that has the packages: ``.nox/peers/bin/python -m studies.contests``. Each side is a process of
its own, with one thread or ``--threads``; they take turns, and the least time of a call of each counts, whatever else
the machine does. ``--write docs/prepare.md`` puts a line a contest between that document's markers.

==========  ============================================================
_contests   name -> its sides, as text
_sides      what a side is called by: its text made a call
_particles  a wave function of particles, in torch and in JAX
_turns      a process a side, which take turns
_table      a contest in one line, and when and on what it was held
==========  ============================================================
"""

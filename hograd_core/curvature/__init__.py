"""Curvature of functions and of models: diagonals, traces, Gauss–Newton, Fisher, KFAC, spectra."""

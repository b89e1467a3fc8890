"""Potential energy of atoms by pair distances: a Lennard-Jones cluster."""

import torch


def energy(positions):
    """Of atoms at positions, of shape (atoms, 3), in reduced units."""
    i, j = torch.triu_indices(len(positions), len(positions), offset=1)
    squared = ((positions[i] - positions[j]) ** 2).sum(dim=1)
    inverse = squared**-3
    return 4 * (inverse**2 - inverse).sum()


def make(n: int = 8):
    """n atoms on a cubic lattice, a little out of place."""
    side = 1
    while side**3 < n:
        side += 1
    lattice = torch.cartesian_prod(*[torch.arange(float(side))] * 3)[:n]
    return energy, 1.2 * lattice + 0.05 * torch.randn(n, 3)

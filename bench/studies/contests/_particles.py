"""A wave function of particles, as those write it who propagate forward Laplacians, in torch and in jax.numpy.

The logarithm of a determinant of orbitals, a network a particle, and a sum of a network over all pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hograd_bench.peers import _jax
from torch import Tensor, nn

import hograd_core as h
from hograd_core.applications.pinn import laplacian

WIDTH, POINTS = 32, 16


def networks(particles: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Of a particle's three coordinates, and of the difference and the distance of two."""
    torch.manual_seed(0)
    made = [
        nn.Sequential(nn.Linear(i, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, o))
        for i, o in ((3, particles), (4, 1))
    ]
    return made[0], made[1]


def positions(particles: int) -> Tensor:
    """Shape (POINTS, 3 particles)."""
    return torch.randn(POINTS, 3 * particles, generator=torch.Generator().manual_seed(1))


def prepared(method: str, preparation: str, particles: int) -> Callable[[], Any]:
    """The Laplacian of a method of hograd's."""
    orbitals, pairs = networks(particles)

    def u(x: Tensor) -> Tensor:
        r = x.view(-1, particles, 3)
        apart = r[:, :, None] - r[:, None]
        distance = (apart.square().sum(-1, keepdim=True) + 0.1).sqrt()
        factor = pairs(torch.cat([apart, distance], -1)).sum((1, 2, 3))
        value: Tensor = torch.linalg.slogdet(orbitals(r) + torch.eye(particles))[1] + factor
        return value

    x = positions(particles)
    kernel = h.prepare(laplacian, u, x, method=method, preparation=preparation)
    if kernel.preparation != preparation:
        raise RuntimeError(kernel.explain())
    return lambda: kernel(x)


def in_jax(method: str, particles: int) -> Callable[[], Any]:
    """By JAX, compiled: forward over reverse in a loop over directions or along all at once; or by folx."""
    _jax.set_up(torch.get_num_threads())
    import jax
    import jax.numpy as jnp

    orbitals, pairs = map(_jax.network, networks(particles))

    def u(x: Any, weights: Any) -> Any:
        r = x.reshape(particles, 3)
        apart = r[:, None] - r[None]
        distance = jnp.sqrt((apart**2).sum(-1, keepdims=True) + 0.1)
        factor = pairs.apply(weights[1], jnp.concatenate([apart, distance], -1)).sum()
        return jnp.linalg.slogdet(orbitals.apply(weights[0], r) + jnp.eye(particles, dtype=x.dtype))[1] + factor

    def of_point(x: Any, weights: Any) -> Any:
        if method == "folx":
            import folx  # type: ignore[import-not-found]

            return folx.forward_laplacian(lambda z: u(z, weights), sparsity_threshold=6)(x).laplacian
        unit = jnp.eye(3 * particles, dtype=x.dtype)

        def second(v: Any) -> Any:
            return jax.jvp(jax.grad(lambda z: u(z, weights)), (x,), (v,))[1] @ v

        if method == "jax_vmap":
            return jax.vmap(second)(unit).sum()
        return jax.lax.fori_loop(0, 3 * particles, lambda i, total: total + second(unit[i]), jnp.zeros((), x.dtype))

    compiled = jax.jit(jax.vmap(of_point, (0, None)))
    x, weights = _jax.array(positions(particles)), [orbitals.parameters, pairs.parameters]
    return lambda: compiled(x, weights).block_until_ready()

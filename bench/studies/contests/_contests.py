"""Every contest, and the sides that enter it."""

from __future__ import annotations

Sides = tuple[str, ...]
DIAGONAL = "digits_loss/n=16,order=2,depth=1,batch=64/float32/cpu/t1"
SPECTRUM = "digits_loss/n=8,order=2,depth=1,batch=64/float64/cpu/t1"
DIGITS = "digits_loss/n=32,order=2,depth=2,batch=64/float32/cpu/t1"

MLP = "mlp/n={},order=2,depth=2,batch=1/float32/cpu/t1"
GRADIENT = "gradient/autograd/"
CHUNKED = f"derivative_tensor/{{1}}/{MLP.replace('{}', '{0}')}/eager"


def _second_order(problem: str, sizes: str, operator: str = "derivative_vector_product", eager: bool = False) -> Sides:
    method = "double_backward" if operator == "derivative_vector_product" else "rows"
    cell = f"{problem}/{sizes}/float32/cpu/t1"
    kinds = ("compiled", "graph", *(["eager"] if eager else []))
    peers = ("jax", "jax_vjp_of_grad") if operator == "derivative_vector_product" else ("jax",)
    ours = [f"{operator}/{method}/{cell}/{kind}" for kind in kinds]
    return (*ours, *(f"{operator}/{peer}/{cell}/eager" for peer in peers))


def _bound(problem: str, sizes: str) -> Sides:
    cell = f"{problem}/{sizes}/float32/cpu/t1"
    product = "derivative_vector_product"
    return (f"bound:{product}/double_backward/{cell}/compiled", f"linearize:{product}/jax/{cell}/eager")


def _series(operator: str, method: str, problem: str, n: int, order: int, batch: int) -> Sides:
    cell = f"{problem}/n={n},order={order},depth=2,batch={batch}/float32/cpu/t1"
    return (f"{operator}/{method}/{cell}/compiled", *(f"{operator}/{peer}/{cell}/eager" for peer in ("jax", "jax_jet")))


def _of_model(operator: str, method: str, other: str) -> Sides:
    ours = [f"{operator}/{method}/{DIGITS}/{kind}" for kind in ("compiled", "graph", "eager")]
    return (*ours, *(f"{operator}/{name}/{DIGITS}/eager" for name in (other, "jax", "backpack")))


LOSSES = {
    "flat MLP 5k": ("mlp_loss", "n=48,order=2,depth=2,batch=32"),
    "flat MLP 26k": ("mlp_loss", "n=112,order=2,depth=2,batch=64"),
    "flat MLP 51k": ("mlp_loss", "n=158,order=2,depth=2,batch=64"),
    "convolutions 1.5k": ("conv_loss", "n=12,order=2,depth=2,batch=32"),
    "attention 8k": ("attention_loss", "n=32,order=2,depth=2,batch=32"),
}
VECTORS = {n: ("mlp", f"n={n},order=2,depth=2,batch=1") for n in (8, 64, 512, 2048)}
CONTESTS: dict[str, Sides] = {
    **{f"product, MLP n={n}": _second_order(*cell, eager=n == 8) for n, cell in VECTORS.items()},
    **{f"product, {name}": _second_order(*cell) for name, cell in LOSSES.items()},
    **{f"bound product, MLP n={n}": _bound(*cell) for n, cell in VECTORS.items()},
    **{f"bound product, {name}": _bound(*cell) for name, cell in LOSSES.items()},
    **{
        f"Hessian, MLP n={n}": _second_order("mlp", f"n={n},order=2,depth=2,batch=1", "derivative_tensor")
        for n in (64, 512, 1024)
    },
    "Hessian, loss of 64 images": _second_order("digits_loss", "n=8,order=2,depth=1,batch=64", "derivative_tensor"),
    **{
        f"Hessian within 1.5 n², MLP n={n}": (f"within:{CHUNKED.format(n, 'rows')}", f"{CHUNKED.format(n, 'jax')}")
        for n in (512, 1024)
    },
    **{
        f"product in gradients, MLP n={n}": (
            f"derivative_vector_product/double_backward/{MLP.format(n)}/compiled",
            f"{GRADIENT}{MLP.format(n)}/compiled",
        )
        for n in (512, 2048)
    },
    **{
        f"Rosenbrock Hessian, n={n}": (
            *(f"{kind} {how}:{n}" for kind in ("coloured", "compressed") for how in ("compiled", "graph", "eager")),
            f"jax:{n}",
        )
        for n in (256, 1024, 4096)
    },
    **{
        f"directional derivative, K={k}, MLP n={n}": _series("directional_derivative", "taylor", "mlp", n, k, 1)
        for n in (64, 512)
        for k in (2, 4, 6, 10)
    },
    **{f"Laplacian, MLP D={d}": _series("laplacian", "collapsed_taylor", "field_loss", d, 2, 64) for d in (8, 50)},
    **{
        f"Laplacian, {n} particles": (
            *(f"forward_laplacian {kind}:{n}" for kind in ("compiled", "graph")),
            f"collapsed_taylor graph:{n}",
            *(f"{peer}:{n}" for peer in ("jax_loop", "jax_vmap", "folx")),
        )
        for n in (16, 32)
    },
    "empirical Fisher diagonal": _of_model("empirical_fisher_diagonal", "layers", "per_sample_vmap"),
    "Fisher diagonal": _of_model("fisher_diagonal", "layers", "expectation"),
    "Gauss-Newton product": _of_model("gauss_newton_vector_product", "double_vjp", "jvp_vjp"),
    "Hessian diagonal": (
        *(f"hessian_diagonal/layers/{DIAGONAL}/{kind}" for kind in ("compiled", "graph", "eager")),
        f"hessian_diagonal/forward_over_forward/{DIAGONAL}/eager",
        *(f"hessian_diagonal/{peer}/{DIAGONAL}/eager" for peer in ("jax", "backpack")),
    ),
    "extreme eigenvalues": (
        *(f"extremes {method}:{SPECTRUM}" for method in ("dense", "lanczos")),
        *(f"hessian_extreme_eigenvalues/{method}/{SPECTRUM}/eager" for method in ("lanczos", "jax")),
    ),
}
"""Name -> the sides, hograd's first: cells; products at a bound point, by ``bind`` or ``jax.linearize``; Rosenbrock's
function's Hessian by colours of its pattern, dense or compressed, or by JAX, dense; extreme
eigenvalues of its Hessian, or by Lanczos steps on bound products; a wave function's Laplacian, by JAX, and by folx
where it is installed. The other side of a product in gradients is the compiled gradient."""

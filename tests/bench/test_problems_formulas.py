"""f computes its stated formula: written again in numpy, from the formula's text, at several sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hograd_bench import problems
from hograd_bench.problems import Spec
from numpy.typing import NDArray

# Other tests may load problem files of their own into the same process.
OURS = {name: p for name, p in problems.problems().items() if p.build.__module__.startswith("hograd_bench.problems.")}
Array = NDArray[np.float64]


def chain(function: Callable[[Array], Array], x: Array, depth: int) -> float:
    for _ in range(depth):
        x = function(x)
    return float(x.sum())


def mean_cross_entropy(logits: Array, targets: NDArray[np.int64]) -> float:
    losses = [math.log(sum(math.exp(z) for z in row)) - row[y] for row, y in zip(logits, targets, strict=True)]
    return sum(losses) / len(losses)


class Flat:
    """Hands out the flat parameters in order."""

    def __init__(self, x: Array) -> None:
        self.rest = x

    def take(self, *shape: int) -> Array:
        size = math.prod(shape)
        taken, self.rest = self.rest[:size], self.rest[size:]
        assert taken.size == size
        return taken.reshape(shape)


def surface(x: Array, s: Spec) -> float:
    u = x.reshape(s.n, s.n)
    slopes = [(u[i + 1, j] - u[i, j], u[i, j + 1] - u[i, j]) for i in range(s.n - 1) for j in range(s.n - 1)]
    return sum(x**2) / 2 + sum(math.sqrt(1 + a * a + b * b) for a, b in slopes)


def softmax_regression(x: Array, s: Spec, inputs: Array, targets: Any) -> float:
    return mean_cross_entropy(inputs @ x.reshape(3, s.n).T, targets)


def mlp_loss(x: Array, s: Spec, inputs: Array, targets: Any) -> float:
    flat, h = Flat(x), inputs
    for _ in range(s.depth):
        w, c = flat.take(s.n, s.n), flat.take(s.n)
        h = np.tanh(h @ w.T + c)
    w, c = flat.take(3, s.n), flat.take(3)
    assert flat.rest.size == 0
    return mean_cross_entropy(h @ w.T + c, targets)


def conv_loss(x: Array, s: Spec, inputs: Array, targets: Any) -> float:
    flat, h = Flat(x), inputs
    for _ in range(s.depth):
        kernel, c = flat.take(s.n, h.shape[1], 3, 3), flat.take(s.n)
        padded = np.pad(h, ((0, 0), (0, 0), (1, 1), (1, 1)))
        size = h.shape[-1]
        out = np.zeros((len(h), s.n, size, size)) + c[:, None, None]
        for di in range(3):
            for dj in range(3):
                out += np.einsum("bchw,oc->bohw", padded[:, :, di : di + size, dj : dj + size], kernel[:, :, di, dj])
        h = np.tanh(out)
    w, c = flat.take(3, s.n), flat.take(3)
    assert flat.rest.size == 0
    return mean_cross_entropy(h.mean((2, 3)) @ w.T + c, targets)


def attention_loss(x: Array, s: Spec, inputs: Array, targets: Any) -> float:
    flat, h = Flat(x), inputs
    for _ in range(s.depth):
        query, key, value, out = (flat.take(s.n, s.n).T for _ in range(4))
        weights = np.exp(np.einsum("bik,bjk->bij", h @ query, h @ key) / math.sqrt(s.n))
        weights /= weights.sum(-1, keepdims=True)
        h = h + np.einsum("bij,bjk->bik", weights, h @ value) @ out
    w, c = flat.take(3, s.n), flat.take(3)
    assert flat.rest.size == 0
    return mean_cross_entropy(h.mean(1) @ w.T + c, targets)


PLAIN: dict[str, Callable[[Array, Spec], float]] = {
    "powers": lambda x, s: sum(t**6 for t in x),
    "polynomial": lambda x, s: sum(
        x[i] ** 3 + x[i] * x[(i + 1) % s.n] ** 2 + x[i] ** 2 * x[(i + 1) % s.n] ** 2 * x[(i + 2) % s.n]
        for i in range(s.n)
    ),
    "rosenbrock": lambda x, s: sum(100 * (x[i + 1] - x[i] ** 2) ** 2 + (1 - x[i]) ** 2 for i in range(s.n - 1)),
    "ring": lambda x, s: sum((d := x[(i + 1) % s.n] - x[i]) ** 2 / 2 + d**3 / 3 + d**4 / 4 for i in range(s.n)),
    "arrowhead": lambda x, s: sum((x[i] ** 2 + x[-1] ** 2) ** 2 - 4 * x[i] + 3 for i in range(s.n - 1)),
    "surface": surface,
    "sin_chain": lambda x, s: chain(np.sin, x, s.depth),
    "tanh_chain": lambda x, s: chain(np.tanh, x, s.depth),
    "log_sum_exp": lambda x, s: math.log(sum(math.exp(t) for t in x)),
    "rational": lambda x, s: sum((1 / (complex(t) - 1j)).real for t in x),
}
NETWORKS: dict[str, Callable[[Array, Spec, Array, Any], float]] = {
    "softmax_regression": softmax_regression,
    "mlp_loss": mlp_loss,
    "params_loss": mlp_loss,
    "sample_losses": lambda x, s, inputs, labels: mlp_loss(x, s, inputs[None], labels.argmax()[None]),
    "conv_loss": conv_loss,
    "attention_loss": attention_loss,
    "sdpa_attention_loss": attention_loss,
}


@pytest.mark.parametrize("name", [*PLAIN, *NETWORKS])
def test_f_is_its_formula(name: str) -> None:
    for spec in (Spec(2, 1, 1), Spec(3, 3, 2), Spec(5, 2, 4)):
        instance = problems.get(name).instance(spec)
        given, batched = instance.own.args, instance.own.in_dims is not None
        data = given or [instance.extras[part] for part in ("inputs", "targets") if name in NETWORKS]
        for i, point in enumerate(instance.points()):
            f, x = point.given["f"], point.given["x"]
            here = [part[i].numpy() if batched else part.numpy() for part in data]
            expected = NETWORKS[name](x.numpy(), spec, *here) if name in NETWORKS else PLAIN[name](x.numpy(), spec)
            assert float(f(x)) == pytest.approx(float(expected), rel=1e-12), (spec, i)


def test_every_network_is_written_again() -> None:
    assert set(NETWORKS) == {name for name, p in OURS.items() if p.family == "network"}

# %% [markdown]
# # Which Hessian, in three lines
#
# Open this file as a notebook (Jupytext, VS Code, Spyder read `# %%` cells), or run it: `python docs/tutorial.py`.

# %%
import hograd_bench
import torch


def energy(x: torch.Tensor) -> torch.Tensor:
    """Pairs of particles that repel one another."""
    gaps = x[:, None] - x[None, :]
    return 1 / (1 + gaps**2).sum()


x = torch.linspace(0, 1, 6, dtype=torch.float64)

# %% [markdown]
# Every method of an operator on your function: held against float64 truth, then measured. A row each, as a DataFrame.

# %%
frame = hograd_bench.measure(energy, x, operators=["hvp", "hessian"])
columns = ["operator", "method", "status", "seconds_min", "gradient_equivalents", "peak_bytes", "aten_calls"]
print(frame[columns].sort_values(["operator", "seconds_min"]).to_string(index=False))


# %% [markdown]
# How it grows: a factory of sizes, measured at small ones; exact laws of bytes and operators then hold at any.


# %%
def chain(n: int = 8) -> tuple[object, torch.Tensor]:
    """f and x of size n."""
    return lambda x: (x[1:] * x[:-1].sin()).sum(), torch.linspace(0, 1, n, dtype=torch.float64)


grown = hograd_bench.measure(
    chain,
    n=[8, 16, 24, 32, 40, 48],
    operators=["hessian"],
    methods=["rows", "batched_rows"],
    families=["memory", "counts"],
)
laws = hograd_bench.laws(grown, metrics=["peak_bytes", "aten_calls"])
print(laws.to_string(index=False))

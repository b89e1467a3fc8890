"""The command `hograd`, also as `python -m hograd_bench`: says which extra it lacks."""

from __future__ import annotations

import sys

BENCH = (
    "jinja2", "matplotlib", "numpy", "pandas", "psutil", "pyarrow", "pynvml", "pytest", "pytest_benchmark", "rich",
    "scipy", "seaborn", "typer",
)  # fmt: skip
"""What the extra ``bench`` brings, as it is imported."""
NOT_INSTALLED = 2


def main() -> None:
    """Run the command.

    Raises:
        ModuleNotFoundError: of what no extra brings, a plugin's own import among them.
    """
    try:
        from hograd_bench import cli

        cli.main()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in BENCH:
            raise
        print(
            f"hograd: the command needs {error.name}, which is not installed; it comes with the extra bench: "
            "python -m pip install 'hograd[bench]' (hograd_core, the kernels, needs torch alone and is there)",
            file=sys.stderr,
        )
        sys.exit(NOT_INSTALLED)


if __name__ == "__main__":
    main()

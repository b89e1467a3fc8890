"""`python -m hograd_bench` is `hograd`."""

from hograd_bench.cli import main

main()

"""Frames -> one self-contained HTML page. Reads results, runs nothing, writes reports/ and nothing else."""

from hograd_bench.report.build import Built as Built
from hograd_bench.report.build import ReportError as ReportError
from hograd_bench.report.build import build as build
from hograd_bench.report.build import build_comparison as build_comparison

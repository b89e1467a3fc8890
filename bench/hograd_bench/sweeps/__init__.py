"""The pytest-benchmark modules, one a family of operators, and the plugin that feeds them cells."""

from __future__ import annotations

from typing import Any

import pytest


def assert_settled(row: dict[str, Any]) -> None:
    """Say in pytest's own words what became of the cell: unsupported skips, wrong and failed fail."""
    if row["status"] == "unsupported":
        pytest.skip(row["reason"])
    assert row["status"] == "ok", f"{row['cell']}: {row['status']}: {row['reason']}"

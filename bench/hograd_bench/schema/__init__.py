"""The row: what one cell left behind, as one JSON object a line. The table is in docs/architecture.md.

Everything that enters the store passes :func:`row`, which makes values fit (a number that JSON cannot hold
becomes null with a reason); everything that leaves it passes :func:`validate`, which trusts nothing.
This room imports neither torch nor pandas, so that reading results is cheap.
"""

from hograd_bench.schema._checking import NewerSchemaError, validate
from hograd_bench.schema._json import SchemaError, parse_json
from hograd_bench.schema._making import encode, row, tidy
from hograd_bench.schema._values import CELL_FIELDS, ENVIRONMENT_SCHEMA, NOT_ASKED, SCHEMA, STATUSES, Row, visible

__all__ = [
    "CELL_FIELDS", "ENVIRONMENT_SCHEMA", "NOT_ASKED", "SCHEMA", "STATUSES",
    "NewerSchemaError", "Row", "SchemaError",
    "encode", "parse_json", "row", "tidy", "validate", "visible",
]  # fmt: skip

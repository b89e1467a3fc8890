"""From files to rows, one line at a time; nothing that is read is trusted or executed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hograd_bench.schema import ENVIRONMENT_SCHEMA, Row, SchemaError, parse_head, parse_json, plain_row, validate
from hograd_bench.store._common import ENVIRONMENT, ROWS, Problem
from hograd_bench.store._frames import Details

LONGEST_LINE = 256 * 2**20
"""Bytes of the longest line that is read; a file without newlines must not fill the memory."""
_BUFFER = 2**20


def read_lines(file: Path, *, complete: bool) -> Iterator[tuple[int, Row | None, Problem]]:
    """Line number and row or problem of each line; details stay unparsed unless ``complete``."""
    fine = Problem(file, None, "")
    try:
        if not file.is_file():
            yield 0, None, Problem(file, None, "no such file, or not a regular one")
            return
        with open(file, "rb", buffering=_BUFFER) as opened:
            offset = 0
            for number, raw in enumerate(iter(lambda: opened.readline(LONGEST_LINE), b""), 1):
                try:
                    if not raw.endswith(b"\n"):
                        raise SchemaError(
                            f"longer than {LONGEST_LINE} bytes" if len(raw) == LONGEST_LINE
                            else "torn: its writer died in mid-line; `hograd run --resume` repairs the file"
                        )  # fmt: skip
                    if raw.strip():
                        yield number, _row(raw, file, number, offset, complete), fine
                except SchemaError as error:
                    yield number, None, Problem(file, number, str(error))
                offset += len(raw)
                rest = raw
                while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
                    rest = opened.readline(LONGEST_LINE)
                    offset += len(rest)
    except OSError as error:
        yield 0, None, Problem(file, None, f"cannot be read: {error.strerror or error}")


def _row(raw: bytes, file: Path, line: int, offset: int, complete: bool) -> Row:
    # Within JSON text a quote is escaped, so `,"` is never inside a string: the first match is a key, and where it is
    # the key of something nested, what stands before it is no JSON and the whole line is parsed.
    cut = raw.find(b',"details":')
    if not complete and cut >= 0 and raw.endswith(b"}}\n"):
        head = raw[:cut] + b',"details":{}}'
        with contextlib.suppress(SchemaError):
            row = plain_row(head) or validate(parse_head(head))
            start = cut + len(b',"details":')
            row["details"] = Details(file, line, offset + start, len(raw) - start - len(b"}\n"))
            return row
    return validate(parse_json(raw))


def read_environment(folder: Path) -> tuple[dict[str, Any], Problem | None]:
    file = folder / ENVIRONMENT
    try:
        if not file.is_file():
            return {}, Problem(file, None, "no such file; with an unknown environment the run compares with none")
        found = parse_json(file.read_bytes())
    except OSError as error:
        return {}, Problem(file, None, f"cannot be read: {error.strerror or error}")
    except SchemaError as error:
        return {}, Problem(file, None, str(error))
    version = found.get("schema") if isinstance(found, dict) else None
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        return {}, Problem(file, None, "not an environment of hograd: expected an object with an integer `schema`")
    if version > ENVIRONMENT_SCHEMA:
        return {}, Problem(file, None, f"schema: got {version}, written by a newer hograd; upgrade hograd")
    return found, None


def is_run(folder: Path) -> bool:
    return (folder / ENVIRONMENT).is_file() or (folder / ROWS).is_file()

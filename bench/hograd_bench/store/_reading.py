"""From files to rows, one line at a time; nothing that is read is trusted or executed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hograd_bench.schema import ENVIRONMENT_SCHEMA, Row, SchemaError, parse_json, validate
from hograd_bench.store._common import ENVIRONMENT, ROWS, ReadWarning
from hograd_bench.store._frames import Details

LONGEST_LINE = 256 * 2**20
"""Bytes of the longest line that is read; a file without newlines must not fill the memory."""
_BUFFER = 2**20


def read_lines(
    file: Path, *, complete: bool, seen: Callable[[bytes], object] = len
) -> Iterator[tuple[int, Row | None, ReadWarning]]:
    """Number, row or warning of each line; details stay unparsed unless ``complete``; ``seen`` gets the bytes."""
    fine = ReadWarning(file, None, "")
    try:
        if not file.is_file():
            yield 0, None, ReadWarning(file, None, "no such file, or not a regular one")
            return
        with open(file, "rb", buffering=_BUFFER) as opened:
            offset = 0
            for number, raw in enumerate(iter(lambda: opened.readline(LONGEST_LINE), b""), 1):
                seen(raw)
                try:
                    if not raw.endswith(b"\n"):
                        raise SchemaError(
                            f"longer than {LONGEST_LINE} bytes" if len(raw) == LONGEST_LINE
                            else "torn: its writer died in mid-line; `hograd run --resume` repairs the file"
                        )  # fmt: skip
                    if raw.strip():
                        row = validate(parse_json(raw)) if complete else _row(raw)
                        if not complete:
                            row["details"] = Details(file, number, offset, len(raw))
                        yield number, row, fine
                except SchemaError as error:
                    yield number, None, ReadWarning(file, number, str(error))
                offset += len(raw)
                rest = raw
                while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
                    rest = opened.readline(LONGEST_LINE)
                    offset += len(rest)
    except OSError as error:
        yield 0, None, ReadWarning(file, None, f"cannot be read: {error.strerror or error}")


def _row(raw: bytes) -> Row:
    """The row without its details, which are most of the line."""
    # Within JSON text a quote is escaped, so `,"` is never inside a string: the first match is a key, and where it is
    # the key of something nested, what stands before it is no JSON and the whole line is parsed.
    cut = raw.find(b',"details":')
    if cut >= 0 and raw.endswith(b"}}\n"):
        with contextlib.suppress(SchemaError):
            return validate(parse_json(raw[:cut] + b',"details":{}}'))
    return validate(parse_json(raw))


def read_environment(folder: Path) -> tuple[dict[str, Any], ReadWarning | None]:
    file = folder / ENVIRONMENT
    try:
        if not file.is_file():
            return {}, ReadWarning(file, None, "no such file; with an unknown environment the run compares with none")
        found = parse_json(file.read_bytes())
    except OSError as error:
        return {}, ReadWarning(file, None, f"cannot be read: {error.strerror or error}")
    except SchemaError as error:
        return {}, ReadWarning(file, None, str(error))
    version = found.get("schema") if isinstance(found, dict) else None
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        return {}, ReadWarning(file, None, "not an environment of hograd: expected an object with an integer `schema`")
    if version > ENVIRONMENT_SCHEMA:
        return {}, ReadWarning(file, None, f"schema: got {version}, written by a newer hograd; upgrade hograd")
    return found, None


def is_run(folder: Path) -> bool:
    return (folder / ENVIRONMENT).is_file() or (folder / ROWS).is_file()

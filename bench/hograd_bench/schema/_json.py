"""JSON as the standard has it, from sources that nobody trusts."""

from __future__ import annotations

import json
import math
from typing import Any


class SchemaError(ValueError):
    """An object is not a row; the message names the field, what it got and what was expected."""


def parse_json(text: str | bytes) -> Any:
    """JSON as the standard has it: NaN and Infinity are errors, and so are numbers too large for a float.

    Raises:
        SchemaError: not JSON; the message says where in the text.
    """
    try:
        return _STANDARD.decode(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError as error:
        raise SchemaError(f"not UTF-8 text: byte {error.start + 1} is 0x{error.object[error.start]:02x}") from None
    except json.JSONDecodeError as error:
        raise SchemaError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise SchemaError("not a row: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits, or a constant that we refused
        raise SchemaError(f"not JSON: {str(error).partition(';')[0]}") from None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


_STANDARD = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)

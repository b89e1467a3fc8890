"""The row: what may enter the store, what may leave it, and what older rows become."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hograd_bench import schema
from hograd_bench.cells import Cell
from hograd_bench.metrics import Missing
from hograd_bench.schema._migrations import MIGRATIONS
from hypothesis import given, settings
from hypothesis import strategies as st

CELL = Cell("derivative_tensor", "rows", "mlp", 8, depth=2)
OLD_ROWS = Path(__file__).parent.parent / "data" / "rows_schema1.jsonl"


def good(**changes: Any) -> dict[str, Any]:
    made = schema.row(
        CELL, "ok", metrics={"peak_bytes": 512, "noisy": False, "flops": Missing("nobody counted")},
        details={"samples_seconds": [0.25]}, numel=8, started="2026-01-02T03:04:05+00:00", wall_seconds=0.5, run="r",
    )  # fmt: skip
    return {**made, **changes}


def error_of(obj: Any) -> str:
    with pytest.raises(schema.SchemaError) as caught:
        schema.validate(obj)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return str(caught.value)


def test_a_row_survives_the_way_to_text_and_back() -> None:
    line = schema.encode(good())
    assert line.endswith(b"}}\n")
    assert line.count(b"\n") == 1
    assert schema.validate(schema.parse_json(line)) == good()
    assert list(json.loads(line))[-1] == "details"


def test_missing_becomes_null_with_its_reason() -> None:
    assert good()["metrics"] == {"peak_bytes": 512, "noisy": False, "flops": None}
    assert good()["missing"] == {"flops": "nobody counted"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "not a finite number: nan"),
        (-math.inf, "not a finite number: -inf"),
        (np.float32("nan"), "not a finite number: nan"),
        (10**400, "larger than any count: about 2**1328"),
        (None, "no value was read"),
        (Missing(""), "no reason given"),
    ],
)
def test_what_json_cannot_hold_is_null_with_a_reason(value: Any, reason: str) -> None:
    made = schema.row(CELL, "ok", metrics={"m": value})
    assert made["metrics"] == {"m": None}
    assert made["missing"] == {"m": reason}


def test_a_name_in_missing_alone_is_a_null_metric_too() -> None:
    made = schema.row(CELL, "ok", missing={"m": "why"})
    assert made["metrics"] == {"m": None}


def test_a_reason_for_a_metric_with_a_value_is_refused() -> None:
    with pytest.raises(schema.SchemaError, match="missing: 'm' has a value, 3, and a reason"):
        schema.row(CELL, "ok", metrics={"m": 3}, missing={"m": "why"})


def test_numpy_values_become_plain_ones() -> None:
    made = schema.row(
        CELL, "ok", metrics={"i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True)},
        details={"a": np.array([1.0, np.nan]), "t": (1, {"x": math.inf}), 3: "key"},
    )  # fmt: skip
    assert made["metrics"] == {"i": 3, "f": 0.5, "b": True}
    assert [type(v) for v in made["metrics"].values()] == [int, float, bool]
    assert made["details"] == {"a": [1.0, None], "t": [1, {"x": None}], "3": "key"}


@pytest.mark.parametrize("value", [object(), {"a": 1}, [1], b"bytes"])
def test_values_that_are_no_metric_are_refused(value: Any) -> None:
    with pytest.raises(schema.SchemaError, match="expected a number, bool, text, Missing or None"):
        schema.row(CELL, "ok", metrics={"m": value})


def test_objects_in_details_are_refused() -> None:
    with pytest.raises(schema.SchemaError, match="details: got a set"):
        schema.row(CELL, "ok", details={"x": [{1, 2}]})


@pytest.mark.parametrize("status", [s for s in schema.STATUSES if s != "ok"])
def test_every_status_but_ok_needs_a_reason(status: str) -> None:
    assert schema.row(CELL, status, "why")["reason"] == "why"
    for reason in (None, ""):
        with pytest.raises(schema.SchemaError, match=f"reason: missing; a row of status '{status}' says why"):
            schema.row(CELL, status, reason)


HOSTILE = '<script>alert("x")</script>\x1b[31m\u2028 \x00 ../../etc {{7*7}} \ud800'


def test_hostile_text_is_only_text() -> None:
    made = schema.row(CELL, "failed", HOSTILE, metrics={"m": HOSTILE}, details={HOSTILE: HOSTILE})
    line = schema.encode(made)
    assert line.count(b"\n") == 1
    back = schema.validate(schema.parse_json(line))
    assert back == made
    assert back["reason"] == schema.visible(HOSTILE.replace("\ud800", "?"))
    assert "\x1b" not in back["reason"]
    escaped = line.replace(b"?", b"\\ud800")  # a foreign file may hold the escape of a lone surrogate
    schema.validate(schema.parse_json(escaped))["reason"].encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 3}, "schema: got 3, written by a newer hograd (this one reads up to 2); upgrade hograd"),
        ({"schema": 10**30}, "written by a newer hograd"),
        ({"schema": 0}, "schema: got 0, expected an integer from 1 to 2"),
        ({"schema": "2"}, "schema: got '2', expected an integer from 1 to 2"),
        ({"schema": True}, "schema: got True, expected an integer"),
        ({"schema": None}, "is this file a rows.jsonl of hograd?"),
        ({"status": "great"}, "status: got 'great', expected one of ok, unverified"),
        ({"status": ["ok"]}, "status: got ['ok'], expected one of"),
        ({"n": 0}, "n: got 0, expected an integer from 1"),
        ({"n": 8.0}, "n: got 8.0, expected an integer from 1"),
        ({"n": True}, "n: got True, expected an integer from 1"),
        ({"threads": 2**70}, "threads: got an integer of 71 bits"),
        ({"operator": 7}, "operator: got 7, expected text"),
        ({"problem": ""}, "problem: got '', expected text"),
        ({"problem": "\ud800"}, "problem: got '\\ud800', expected text"),
        ({"problem": ["a"]}, "problem: got ['a'], expected text"),
        ({"cell": {}}, "cell: got {}, but the row's fields say"),
        ({"problem": "a/b"}, "problem: got 'a/b', expected text without '/'"),
        ({"n": 9}, "but the row's fields say"),
        ({"cell": None}, "cell: got None, but the row's fields say"),
        ({"run": 3}, "run: got a number, expected text"),
        ({"numel": -1}, "numel: got -1, expected an integer from 0"),
        ({"reason": 3}, "reason: got a number, expected text or null"),
        ({"started": 3}, "started: got 3, expected text"),
        ({"wall_seconds": -0.5}, "wall_seconds: got -0.5, expected a number >= 0 or null"),
        ({"wall_seconds": math.nan}, "wall_seconds: got nan, expected a finite number"),
        ({"wall_seconds": True}, "wall_seconds: got a boolean, expected a number or null"),
        ({"metrics": []}, "metrics: got a list, expected an object"),
        ({"missing": None}, "missing: got null, expected an object"),
        ({"details": []}, "details: got a list, expected an object"),
        ({"metrics": {"m": [1]}, "missing": {}}, "metrics['m']: got a list, expected a number or null"),
        ({"metrics": {"m": math.inf}, "missing": {}}, "metrics['m']: got inf, expected a finite number"),
        ({"metrics": {"m": 2**63}, "missing": {}}, "metrics['m']: got an integer of 64 bits, expected a finite number"),
        ({"metrics": {"m": None}, "missing": {}}, "missing['m']: not there, but the metric is null"),
        ({"metrics": {"m": None}, "missing": {"m": ""}}, "missing['m']: not there, but the metric is null"),
        ({"metrics": {"m": None}, "missing": {"m": 3}}, "missing['m']: got a number, expected text"),
        ({"metrics": {"m": 1}, "missing": {"m": "x"}}, "missing['m']: a reason, but metrics has no null of that name"),
        ({"metrics": {}, "missing": {"m": "x"}}, "missing['m']: a reason, but metrics has no null of that name"),
        ({"metrics": {"<b>": 1}, "missing": {}}, "metrics['<b>']: not the name of a metric"),
        ({"metrics": {"status": 1}, "missing": {}}, "metrics['status']: not the name of a metric"),
        ({"metrics": {"machine": 1}, "missing": {}}, "metrics['machine']: not the name of a metric"),
        ({"surprise": 1}, "'surprise': not a field of schema 2"),
    ],
)
def test_errors_name_the_field_what_it_got_and_what_was_expected(changes: dict[str, Any], message: str) -> None:
    assert message in error_of(good(**changes))


@pytest.mark.parametrize("field", sorted(good()))
def test_a_lacking_field_is_named(field: str) -> None:
    made = good()
    del made[field]
    assert error_of(made).startswith(f"{field}: ")


@pytest.mark.parametrize("obj", [None, 3, "text", [good()], True])
def test_other_json_is_no_row(obj: Any) -> None:
    assert "expected a JSON object" in error_of(obj)


def test_a_newer_schema_is_an_error_of_its_own() -> None:
    with pytest.raises(schema.NewerSchemaError):
        schema.validate(good(schema=schema.SCHEMA + 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "not JSON: NaN is not a JSON number"),
        ('{"a": -Infinity}', "not JSON: -Infinity is not a JSON number"),
        ('{"a": 1e999}', "not JSON: 1e999 is too large for a number"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON: Exceeds the limit"),
        ("[" * 100_000, "not a row: nested too deeply"),
        ('{"a": 1', "not JSON: Expecting ',' delimiter at character 8"),
        ("", "not JSON: Expecting value at character 1"),
        (b"\x80\x04\x95", "not UTF-8 text: byte 1 is 0x80"),
        ("{'a': 1}", "not JSON"),
    ],
)
def test_only_standard_json_is_read(text: str | bytes, message: str) -> None:
    with pytest.raises(schema.SchemaError) as caught:
        schema.parse_json(text)
    assert message in str(caught.value)


def test_encode_refuses_what_is_no_json() -> None:
    with pytest.raises(schema.SchemaError, match="cannot be written as JSON"):
        schema.encode(good(details={"x": math.nan}))
    with pytest.raises(schema.SchemaError, match="cannot be written as JSON"):
        schema.encode(good(details={"x": object()}))


def old_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in OLD_ROWS.read_text(encoding="utf-8").splitlines()]


def test_recorded_rows_of_schema_1_become_current_rows() -> None:
    ok, partly, unsupported, timeout = (schema.validate(row) for row in old_rows())
    assert ok["schema"] == schema.SCHEMA
    assert Cell.parse(ok["cell"]) == Cell("derivative_vector_product", "double_backward", "sin_chain", 64, depth=8)
    assert ok["metrics"] == {
        "peak_bytes": 6400, "retained_bytes": 256, "seconds_min": 0.000239, "saved_bytes": 2304, "flops": None,
    }  # fmt: skip
    assert ok["details"] == {"samples_seconds": [0.000241, 0.000239, 0.000262]}
    assert (ok["started"], ok["wall_seconds"], ok["numel"]) == ("2026-01-05T10:15:02+00:00", 0.412, None)
    assert partly["missing"] == dict.fromkeys(("saved_bytes", "flops"), "not recorded by schema 1")
    assert unsupported["reason"].startswith("no derivative formula")
    assert unsupported["missing"]["peak_bytes"] == "the cell's status is unsupported"
    assert timeout["reason"] == "no reason recorded by schema 1"
    assert timeout["metrics"] == {}


def test_migration_leaves_the_old_row_alone_and_every_step_is_there() -> None:
    for row in old_rows():
        before = copy.deepcopy(row)
        schema.validate(row)
        assert row == before
    assert sorted(MIGRATIONS) == list(range(1, schema.SCHEMA))


def test_a_damaged_old_row_is_a_clear_error() -> None:
    row = old_rows()[0]
    del row["status"]
    assert error_of(row) == "schema: a row of schema 1 that cannot be migrated: KeyError('status')"
    assert "metrics['peak_bytes']: got a list" in error_of({**old_rows()[0], "peak_bytes": []})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def verdict(read: Any, value: Any) -> Any:
    """The result, or the SchemaError; any other exception is a defect."""
    try:
        return read(value)
    except schema.SchemaError as error:
        return error


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(field=st.sampled_from(sorted(good())), value=json_values)
def test_any_value_in_any_field_is_a_row_or_a_schema_error(field: str, value: Any) -> None:
    made = verdict(schema.validate, good(**{field: value}))
    if isinstance(made, schema.SchemaError):
        assert "\n" not in str(made)
    elif field != "details":  # details may hold here what a reader of standard JSON never produces
        assert schema.validate(schema.parse_json(schema.encode(made))) == made


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes_are_json_or_a_schema_error(data: bytes) -> None:
    assert "\n" not in str(verdict(schema.parse_json, data)) or b"\\n" in data

"""What only a peer's method has: its own writing of the function, a preparation, instruments of its own framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hograd_bench.metrics._contract import Metric, Missing, Readings

if TYPE_CHECKING:
    from hograd_bench.metrics._subject import Subject

TURN = 0
PEERS_ONLY = True
_MACHINE = ("torch", "threads", "isa", "device", "machine")
METRICS = (
    Metric(
        "function_error",
        "1",
        False,
        "the peer's value of f, or of the field, against hograd's in float64",
        "relative difference of the peer's own writing of the function",
        ("torch", "threads", "isa", "device"),
    ),
    Metric(
        "prepare_seconds", "s", False, "time.perf_counter, once", "making the method ready, compiling too", _MACHINE
    ),
    Metric("compile_seconds", "s", False, "time.perf_counter, once", "tracing and compiling ahead of a call", _MACHINE),
    Metric(
        "xla_peak_bytes",
        "B",
        False,
        "XLA buffer assignment (temporaries and outputs)",
        "most bytes that a compiled call holds beside its arguments; never set against peak_bytes",
        _MACHINE,
    ),
)


def measure(subject: Subject) -> Readings:
    """Read them; what the peer has no instrument for is missing."""
    values = subject.function_values
    assert subject.peer is not None
    assert values is not None
    told = subject.peer.readings()
    own = ("compile_seconds", "xla_peak_bytes")
    return Readings(
        {
            "function_error": function_error(*values),
            "prepare_seconds": subject.prepare_seconds,
            **{name: told.get(name, Missing("the peer has no such figure")) for name in own},
        }
    )


def function_error(told: float, true: float) -> float:
    """Relative difference of two values of a function."""
    return abs(told - true) / max(abs(true), 1e-30)

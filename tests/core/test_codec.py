"""Every type of core survives JSON, and JSON of another shape is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.codec import decode, encode
from onnxqat.core.comparison import Comparison, LayerError
from onnxqat.core.engine_plan import EngineLayer, EnginePlan, TensorView
from onnxqat.core.errors import ConfigError
from onnxqat.core.finding import Finding, Severity
from onnxqat.core.plan import Edge, Placement, QuantPlan, Skip
from onnxqat.core.signature import InputSpec
from onnxqat.core.spec import PerChannel, PerTensor, QuantDtype, QuantSpec, SharedSpec

TYPES = [
    Calibration, Comparison, EnginePlan, Finding, InputSpec, QuantPlan, TensorRange, Edge,
    EngineLayer, LayerError, Placement, QuantSpec, Skip, TensorView,
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_decode_gives_back_what_was_encoded(kind: type, data: st.DataObject) -> None:
    """Hypothesis builds values from the same type hints; NaN is left out, it equals nothing."""
    st.register_type_strategy(float, st.floats(allow_nan=False))
    value = data.draw(st.from_type(kind))

    text = json.dumps(encode(value), allow_nan=False)

    assert decode(kind, json.loads(text)) == value


def test_a_plan_reads_as_plain_json() -> None:
    leader = Edge("x", "add", 0)
    spec = QuantSpec(QuantDtype.INT4_IN_INT8, PerChannel(1))

    assert encode(Placement(leader, spec, "P1", "why")) == {
        "edge": {"tensor": "x", "node": "add", "index": 0},
        "spec": {"dtype": "int4_in_int8", "granularity": {"axis": 1}},
        "rule": "P1",
        "reason": "why",
    }
    assert encode(SharedSpec(leader)) == {"follows": {"tensor": "x", "node": "add", "index": 0}}


EDGE = {"tensor": "x", "node": "n", "index": 0}
WRONG: list[tuple[type, Any]] = [
    (Edge, {"tensor": "x", "node": "n"}),
    (Edge, {**EDGE, "more": 1}),
    (Edge, {**EDGE, "index": "0"}),
    (Edge, [1, 2, 3]),
    (QuantPlan, {"placements": {}, "skips": []}),
    (QuantSpec, {"dtype": "int8", "granularity": {"axes": 1}}),
    (TensorRange, {"tensor": "x", "amax": ["one"], "method": "max", "samples": 1}),
]


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_json_of_another_shape_is_refused(kind: type, value: Any) -> None:
    with pytest.raises(ConfigError):
        decode(kind, value)


def test_an_unknown_name_of_an_enum_is_refused() -> None:
    with pytest.raises(ConfigError):
        decode(QuantDtype, "int3")


def test_a_whole_number_is_a_float_where_a_float_is_meant() -> None:
    value = {"tensor": "x", "amax": [3], "method": "max", "samples": 1}

    assert decode(TensorRange, value) == TensorRange("x", (3.0,), "max", 1)


def test_a_finding_keeps_its_severity() -> None:
    finding = Finding("QDQ001", Severity.ERROR, "message", tensor="x")

    assert decode(Finding, encode(finding)) == finding


def test_both_granularities_are_told_apart() -> None:
    for granularity in (PerTensor(), PerChannel(0)):
        spec = QuantSpec(QuantDtype.INT8, granularity)
        assert decode(QuantSpec, encode(spec)) == spec

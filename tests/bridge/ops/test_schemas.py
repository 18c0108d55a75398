"""Every registered operator's Python signature is its ONNX schema."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import defs, helper

from onnxqat.bridge import ops as _families  # noqa: F401 - registers the operators
from onnxqat.bridge.ops.registry import Op, find, listed_versions, op, ops

ENTRIES = list({id(entry): entry for key, entry in sorted(ops().items()) if not key[0]}.values())
IDS = [f"{entry.name}-{entry.versions}" for entry in ENTRIES]


def schema_of(name: str, version: int) -> Any:
    schema = defs.get_schema(name, version, "")
    assert schema.since_version == version
    return schema


def default_of(attribute: Any) -> Any:
    """The default in the schema as Python has it; `empty` where a value must be given."""
    if attribute.default_value.name:
        value = helper.get_attribute_value(attribute.default_value)
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, list):
            return tuple(v.decode() if isinstance(v, bytes) else v for v in value)
        return value
    return inspect.Parameter.empty if attribute.required else None


def same_default(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, float) and isinstance(theirs, float):
        return np.float32(mine) == np.float32(theirs)
    return bool(mine == theirs)


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_inputs_are_the_schemas_inputs(entry: Op) -> None:
    for version in entry.versions:
        schema = schema_of(entry.name, version)
        assert len(schema.inputs) <= len(entry.inputs)
        for parameter, formal in zip(entry.inputs, schema.inputs, strict=False):
            optional = formal.option == defs.OpSchema.FormalParameterOption.Optional
            variadic = formal.option == defs.OpSchema.FormalParameterOption.Variadic
            assert parameter.name == formal.name
            assert (parameter.kind is parameter.VAR_POSITIONAL) == variadic
            assert not optional or parameter.default is None


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_inputs_beyond_a_version_are_a_later_versions_and_optional(entry: Op) -> None:
    latest = schema_of(entry.name, max(entry.versions))
    assert [p.name for p in entry.inputs] == [i.name for i in latest.inputs]
    for version in entry.versions:
        for parameter in entry.inputs[len(schema_of(entry.name, version).inputs) :]:
            assert parameter.default is None


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_attributes_are_the_schemas_attributes(entry: Op) -> None:
    mine = {p.name: p for p in entry.attributes}
    theirs = [schema_of(entry.name, version).attributes for version in entry.versions]
    assert set(mine) == {name for attributes in theirs for name in attributes}
    for attributes in theirs:
        for name, attribute in attributes.items():
            assert same_default(mine[name].default, default_of(attribute)), name


def test_look_up_takes_the_version_that_the_opset_means() -> None:
    clip_6, clip_13 = (find("Clip", domain="", opset=opset) for opset in (10, 17))
    assert clip_6 is not None
    assert clip_13 is not None
    assert clip_6.versions == (6,)
    assert 13 in clip_13.versions


def test_look_up_never_takes_a_neighbouring_version() -> None:
    newest = max(listed_versions("Relu"))
    assert find("Relu", domain="", opset=5) is None
    assert find("Relu", domain="", opset=newest) is not None
    assert find("Relu", domain="", opset=onnx.defs.onnx_opset_version() + 1) is None


def test_a_version_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="Relu since version 6 is registered twice"):
        op("Relu", versions=(6,))(lambda X: X)


def test_an_entry_tells_how_each_input_is_read() -> None:
    entry = find("Reshape", domain="", opset=14)
    assert isinstance(entry, Op)
    assert [entry.reading(i).value for i in (0, 1)] == ["moved", "ints"]

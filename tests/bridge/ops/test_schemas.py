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

ENTRIES = sorted(key for key in ops() if key[0] == "")
IDS = [f"{name}-{version}" for _, name, version in ENTRIES]


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


@pytest.mark.parametrize(("domain", "name", "version"), ENTRIES, ids=IDS)
def test_inputs_are_the_schemas_inputs(domain: str, name: str, version: int) -> None:
    entry, schema = ops()[domain, name, version], schema_of(name, version)
    assert len(schema.inputs) <= len(entry.inputs)
    for parameter, formal in zip(entry.inputs, schema.inputs, strict=False):
        assert parameter.name == formal.name
        optional = formal.option == defs.OpSchema.FormalParameterOption.Optional
        variadic = formal.option == defs.OpSchema.FormalParameterOption.Variadic
        assert (parameter.kind is parameter.VAR_POSITIONAL) == variadic
        assert not optional or parameter.default is None


@pytest.mark.parametrize(("domain", "name", "version"), ENTRIES, ids=IDS)
def test_inputs_beyond_this_version_are_a_later_versions_and_optional(
    domain: str, name: str, version: int
) -> None:
    entry, schema = ops()[domain, name, version], schema_of(name, version)
    latest = schema_of(name, max(entry.versions))
    assert [p.name for p in entry.inputs] == [i.name for i in latest.inputs]
    assert len(schema.inputs) <= len(latest.inputs)
    for parameter in entry.inputs[len(schema.inputs) :]:
        assert parameter.default is None


@pytest.mark.parametrize(("domain", "name", "version"), ENTRIES, ids=IDS)
def test_attributes_have_the_schemas_names_and_defaults(
    domain: str, name: str, version: int
) -> None:
    entry, schema = ops()[domain, name, version], schema_of(name, version)
    mine = {p.name: p for p in entry.attributes}
    assert set(schema.attributes) <= set(mine)
    for key, attribute in schema.attributes.items():
        assert same_default(mine[key].default, default_of(attribute)), key


@pytest.mark.parametrize(("domain", "name", "version"), ENTRIES, ids=IDS)
def test_no_attribute_is_unknown_to_every_version(domain: str, name: str, version: int) -> None:
    entry = ops()[domain, name, version]
    known = {a for v in entry.versions for a in schema_of(name, v).attributes}
    assert {p.name for p in entry.attributes} <= known


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

"""Shape arithmetic on Python ints gives what the same operator gives on tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxqat.bridge import ops as _families  # noqa: F401 - registers the operators
from onnxqat.bridge.ops.registry import Op, Reading, TensorValue, ops
from onnxqat.bridge.values import as_numbers, as_tensor, simplest

NUMBERS = st.integers(-9, 9)
TUPLES = st.lists(NUMBERS, min_size=1, max_size=5).map(tuple)
EITHER = st.one_of(NUMBERS, TUPLES)
NATURALS = st.integers(0, 5)


def entry(name: str, version: int) -> Op:
    return ops()["", name, version]


def on_tensors(op: Op, values: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
    read = [
        None if v is None else as_numbers(v) if op.reading(i) is Reading.INTS else as_tensor(v)
        for i, v in enumerate(values)
    ]
    return simplest(op.function(*read, **attributes))


def check(name: str, version: int, *values: Any, **attributes: Any) -> None:
    """Where the function on ints answers, the one on tensors answers the same."""
    op = entry(name, version)
    assert op.host is not None
    result = op.host(*values, **attributes)
    if result is NotImplemented:
        return
    expected = on_tensors(op, values, attributes)
    assert result == expected
    assert isinstance(result, tuple) == isinstance(expected, tuple)


def pairs() -> st.SearchStrategy[tuple[Any, Any]]:
    """Two values that broadcast."""
    same = st.integers(1, 4).flatmap(
        lambda n: st.tuples(*[st.lists(NUMBERS, min_size=n, max_size=n).map(tuple)] * 2)
    )
    one = NUMBERS.map(lambda v: (v,))
    return st.one_of(
        same, st.tuples(EITHER, NUMBERS), st.tuples(NUMBERS, EITHER), st.tuples(TUPLES, one)
    )


@pytest.mark.parametrize("name", ["Add", "Sub", "Mul", "Equal", "Greater", "Less", "Max", "Min"])
@given(values=pairs())
def test_arithmetic(name: str, values: tuple[Any, Any]) -> None:
    check(name, 13, *values)


@given(values=pairs())
def test_division_truncates(values: tuple[Any, Any]) -> None:
    if 0 not in (values[1] if isinstance(values[1], tuple) else (values[1],)):
        check("Div", 14, *values)


@given(value=EITHER)
def test_negation_and_magnitude(value: Any) -> None:
    check("Neg", 13, value)
    check("Abs", 13, value)


@given(data=TUPLES, index=st.data())
def test_gather(data: tuple[int, ...], index: st.DataObject) -> None:
    one = st.integers(-len(data), len(data) - 1)
    wanted = index.draw(st.lists(one, max_size=3).map(tuple))
    check("Gather", 13, data, wanted)
    op = entry("Gather", 13)
    assert op.host is not None
    number = index.draw(one)
    assert op.host(data, number) == op.function(as_tensor(data), number).item()


@given(
    data=TUPLES,
    start=NUMBERS,
    end=st.one_of(NUMBERS, st.sampled_from([2**31 - 1, -(2**31)])),
    step=st.sampled_from([-3, -2, -1, 1, 2, 3]),
)
@settings(max_examples=300)
def test_slice(data: tuple[int, ...], start: int, end: int, step: int) -> None:
    check("Slice", 13, data, (start,), (end,), (0,), (step,))
    if step == 1:
        check("Slice", 1, data, starts=(start,), ends=(end,), axes=(0,))


@given(values=st.lists(TUPLES, min_size=1, max_size=3))
def test_concat(values: list[tuple[int, ...]]) -> None:
    check("Concat", 13, *values, axis=0)


@given(value=EITHER)
def test_changes_of_rank(value: Any) -> None:
    check("Unsqueeze", 13, value, (0,))
    check("Unsqueeze", 11, value, axes=(0,))
    check("Reshape", 14, value, (-1,))
    check("Identity", 16, value)
    check("Cast", 13, value, to=7)
    if isinstance(value, tuple) and len(value) == 1:
        check("Squeeze", 13, value, (0,))
        check("Squeeze", 11, value, axes=(0,))
        check("Reshape", 14, value, ())


@given(value=EITHER)
def test_shape_and_size(value: Any) -> None:
    for name in ("Shape", "Size"):
        op = entry(name, 13)
        assert op.host is not None
        assert op.host(value) == op.function(as_tensor(value))


@given(values=pairs(), condition=st.booleans())
def test_where(values: tuple[Any, Any], condition: bool) -> None:
    check("Where", 16, condition, *values)


@given(length=NATURALS, fill=NUMBERS)
def test_constant_of_shape_and_expand(length: int, fill: int) -> None:
    value = TensorValue.of(torch.tensor([fill]))
    check("ConstantOfShape", 9, (length,), value=value)
    check("ConstantOfShape", 9, (), value=value)
    check("Expand", 13, fill, (length,))
    check("Expand", 13, (fill,), (length,))


@given(start=NUMBERS, limit=NUMBERS, delta=st.sampled_from([-2, -1, 1, 2]))
def test_range(start: int, limit: int, delta: int) -> None:
    check("Range", 11, start, limit, delta)


@given(data=TUPLES, keepdims=st.sampled_from([0, 1]))
def test_product(data: tuple[int, ...], keepdims: int) -> None:
    check("ReduceProd", 13, data, keepdims=keepdims)

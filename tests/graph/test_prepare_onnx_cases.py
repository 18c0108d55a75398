"""ONNX's own test models, every operator in every form, compute the same after preparation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.reference import ReferenceEvaluator

from onnxqat.core.errors import ModelError
from onnxqat.graph import as_graph, prepare, to_model
from tests.support.onnx_cases import node_cases
from tests.support.runtime import run

REFUSED = {
    "test_not_2d": "opset 1", "test_not_3d": "opset 1", "test_not_4d": "opset 1",
    "test_scan_sum": "Scan of opset 8", "test_upsample_nearest": "scales are computed",
}  # fmt: skip
"""Older than what can be raised, or without an equal in a newer opset."""

UNJUDGED = {
    # Range of a list of one number, which ONNX Runtime lets pass only as long as it is computed.
    "test_affine_grid_2d_expanded", "test_affine_grid_2d_align_corners_expanded",
}  # fmt: skip

RANDOM = ("bernoulli", "random", "dropout", "multinomial")

Run = Callable[[onnx.ModelProto, Mapping[str, Any]], list[Any]]


def _reference(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    outputs: list[Any] = ReferenceEvaluator(model).run(None, dict(feeds))
    return outputs


def _judge(case: TestCase, prepared: onnx.ModelProto) -> bool | None:
    """Whether both models agree; None if nobody runs the case."""
    feeds = dict(zip((i.name for i in case.model.graph.input), case.data_sets[0][0], strict=False))
    kept = {i.name for i in prepared.graph.input}
    for judge in (run, _reference):
        try:
            expected = judge(case.model, feeds)
        except Exception:  # noqa: BLE001 - a runtime raises what it likes where it has no kernel
            continue
        got = judge(prepared, {name: value for name, value in feeds.items() if name in kept})
        return _same(expected, got)
    return None


def _same(expected: Any, got: Any) -> bool:
    if isinstance(expected, list):
        return len(expected) == len(got) and all(map(_same, expected, got))
    if expected is None:
        return got is None
    x, y = np.asarray(expected), np.asarray(got)
    if (x.dtype, x.shape) != (y.dtype, y.shape):
        return False
    if x.dtype.kind not in "fc":
        return bool((x == y).all())
    tolerance = 4 * np.finfo(x.dtype).eps  # folded constants are rounded by numpy, not the runtime
    return np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.slow
def test_every_operator_computes_the_same_after_preparation() -> None:
    judged = []
    for case in node_cases():
        if case.name in UNJUDGED | REFUSED.keys():
            continue
        prepared = to_model(prepare(as_graph(case.model)))
        onnx.checker.check_model(prepared)
        if not any(word in case.name for word in RANDOM):
            judged.append((case.name, _judge(case, prepared)))

    assert [name for name, same in judged if same is False] == []
    assert sum(same is True for _, same in judged) > 1500


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_raised_is_refused_with_the_reason(name: str) -> None:
    (case,) = [case for case in node_cases() if case.name == name]

    with pytest.raises(ModelError, match=REFUSED[name]):
        prepare(as_graph(case.model))

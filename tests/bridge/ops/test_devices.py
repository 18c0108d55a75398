"""Every operator computes where its float inputs lie, and waits for no device to do it.

The device has no memory: what is read off it, or mixed with a tensor of the host, is an error.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from onnxqat.bridge import to_torch
from onnxqat.bridge.ops.registry import listed_versions
from tests.bridge.ops.test_node_cases import DIFFERENT, REFUSED, listed
from tests.support.onnx_cases import as_torch, cases_of_nodes, node_cases

NOWHERE = torch.device("meta")
WAITING = {
    "Bernoulli": "torch makes no generator for a device without memory",
    "Compress": "the size of the result is data",
    "NonMaxSuppression": "the size of the result is data",
    "NonZero": "the size of the result is data",
    "RoiAlign": "without sampling_ratio, the number of samples is data",
    "Unique": "the size of the result is data",
}
"""Operators that must read what lies on the device -> why."""
HOST = {"sizes", "scales", "roi", "shape"}
"""Float inputs that are shapes in disguise."""


def cases_of_op() -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for case in node_cases():
        nodes = case.model.graph.node
        op, is_one = nodes[0].op_type, len(nodes) == 1 and not nodes[0].domain
        if is_one and op not in WAITING and not listed(REFUSED | DIFFERENT, case.name):
            found[op].append(case.name)
    return found


CASES, OF_OP = cases_of_nodes(), cases_of_op()


def on_device(model: onnx.ModelProto, values: list[Any]) -> tuple[onnx.ModelProto, list[Any]]:
    """The model with every input but the float tensors fixed, and these on the device."""
    fixed, moved = onnx.ModelProto(), []
    fixed.CopyFrom(model)
    fixed.ir_version = max(model.ir_version, 4)
    del fixed.graph.input[:]
    for formal, value in zip(model.graph.input, values, strict=False):
        tensor = as_torch(value)
        if tensor.is_floating_point() and tensor.ndim and formal.name not in HOST:
            fixed.graph.input.append(formal)
            moved.append(tensor.to(NOWHERE))
        else:
            array = np.asarray(value)
            fixed.graph.initializer.append(numpy_helper.from_array(array, formal.name))
    return fixed, moved


@pytest.mark.parametrize("op", sorted(OF_OP))
def test_results_lie_where_the_inputs_do(op: str) -> None:
    for name in OF_OP[op]:
        source, ((values, _), *_) = CASES[name].load()
        if not all(isinstance(v, np.ndarray) and v.dtype.kind not in "OUS" for v in values):
            continue
        model, moved = on_device(source, values)
        if moved:
            result = to_torch(model).to(NOWHERE)(*moved)
            outputs = result if isinstance(result, tuple | list) else (result,)
            assert all(output.device == NOWHERE for output in outputs), name


@pytest.mark.parametrize("op", WAITING)
def test_what_is_excused_exists(op: str) -> None:
    assert listed_versions(op)

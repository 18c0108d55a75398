"""What the TensorRT compiler makes of the plan of each well-known architecture.

The profile `rtx` is that of the compiler here: all that it places must be worth it. The profile
`tensorrt` is of another compiler, so that exceptions are listed, each with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest

from onnxqat.core.engine_plan import EnginePlan, Passage
from onnxqat.core.precision import HEAVY_OPS, Precision
from onnxqat.engine import build
from onnxqat.graph import Graph, as_graph, insert, prepare
from onnxqat.placement import PlacementConfig, place
from tests.placement.architectures import ARCHITECTURES
from tests.support.compile import needs_compiler
from tests.support.placement import made_up

pytestmark = needs_compiler

POINTWISE_ONLY = "only pointwise ops read it, so that RTX dequantizes it where it is computed"
NO_INT8_KERNEL = "RTX runs every ConvTranspose in float"
CROSSING_IN_FLOAT = {
    "resnet_v2": {
        ("Add_11_out", "Add_21"): POINTWISE_ONLY,
        ("Add_32_out", "Add_42"): POINTWISE_ONLY,
    },
    "mobilenet_v3": {
        ("Relu_5_out", "Mul_11"): POINTWISE_ONLY,
        ("Div_23_out", "Mul_29"): POINTWISE_ONLY,
        ("HardSwish_34_out", "Mul_40"): POINTWISE_ONLY,
    },
    "efficientnet": {
        ("Mul_8_out", "Mul_15"): POINTWISE_ONLY,
        ("Mul_23_out", "Mul_30"): POINTWISE_ONLY,
        ("Mul_37_out", "Mul_44"): POINTWISE_ONLY,
    },
    "unet_transposed": {
        ("Relu_7_out", "ConvTranspose_8"): NO_INT8_KERNEL,
        ("Relu_11_out", "ConvTranspose_12"): NO_INT8_KERNEL,
    },
}
"""Architecture -> tensor and reader -> why it crosses as float under the profile `tensorrt`."""
FLOAT_KERNELS = {"unet_transposed": {"ConvTranspose"}}
"""Architecture -> ops that RTX has no INT8 kernel for, though the profile `tensorrt` wants one."""

REPRESENTATIVE = (
    "resnet_v2",
    "mobilenet_v3",
    "yolo",
    "unet_transposed",
    "vit",
    "swin",
    "crnn_lstm",
)
"""What is compiled by default; the others take as long again."""


def those(names: Iterable[str]) -> list[Any]:
    """Parameters, the representative ones without a mark."""
    slow = pytest.mark.slow
    return [pytest.param(n, marks=() if n in REPRESENTATIVE else slow) for n in names]


@cache
def quantized(name: str, profile: str) -> tuple[set[str], EnginePlan]:
    """The nodes with weights that the plan quantizes, and what was compiled."""
    graph: Graph = prepare(as_graph(ARCHITECTURES[name]()))
    plan = place(graph, config=PlacementConfig(profile=profile))
    heavy = {node.name for node in graph.nodes if node.op in HEAVY_OPS}
    built = build(insert(graph, plan, made_up(graph, plan)), backend="rtx")
    return heavy & {x.edge.node for x in plan.placements}, built.plan


def float_nodes(nodes: set[str], plan: EnginePlan) -> set[str]:
    """The ops of those nodes that did not become INT8 kernels."""
    return {x.op for x in plan.nodes if x.node in nodes and x.precision is not Precision.INT8}


def crossing_otherwise(plan: EnginePlan) -> set[tuple[str, str]]:
    """Tensor and reader of the edges with Q/DQ that neither cross in INT8 nor stay in a kernel."""
    return {(x.tensor, x.reader) for x in plan.qdq if x.passage is Passage.FLOAT}


@pytest.mark.parametrize("name", those(ARCHITECTURES))
def test_what_the_plan_for_rtx_quantizes_is_compiled_to_int8_and_crosses_in_it(name: str) -> None:
    nodes, plan = quantized(name, "rtx")
    assert nodes
    assert float_nodes(nodes, plan) == set()
    assert plan.qdq
    assert crossing_otherwise(plan) == set()
    assert plan.unread == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_the_plan_for_tensorrt_quantizes_is_compiled_to_int8_but_for_what_is_listed(
    name: str,
) -> None:
    nodes, plan = quantized(name, "tensorrt")
    assert float_nodes(nodes, plan) == FLOAT_KERNELS.get(name, set())
    assert crossing_otherwise(plan) == CROSSING_IN_FLOAT.get(name, {}).keys()


@pytest.mark.parametrize(
    "name", those(["vit", "vit_fused_qkv", "vit_classifier", "vit_long", "bert", "swin"])
)
def test_each_attention_block_is_one_int8_kernel(name: str) -> None:
    nodes = prepare(as_graph(ARCHITECTURES[name]())).nodes
    plan = quantized(name, "rtx")[1]
    fused = [layer for layer in plan.layers if "_mha_" in layer.tactic]
    assert len(fused) == sum(node.op == "Softmax" for node in nodes) > 0
    for layer in fused:
        assert [view.dtype for view in layer.inputs].count("Int8") == 3  # others are masks
        assert [view.dtype for view in layer.outputs] == ["Int8"]

"""What became of Q/DQ pairs, read from recorded compiler logs of small networks.

Each log is the layer list that TensorRT for RTX 1.7.1 wrote for a network of a few nodes.
"""

from __future__ import annotations

import pytest

from onnxqat.core.engine_plan import EnginePlan, Passage, Precision, QdqEdge
from onnxqat.core.precision import node_precisions
from onnxqat.core.qdq_passage import qdq_layers, with_passages
from tests.core.test_precision import recorded


def passage(log: str, tensor: str, reader: str) -> Passage:
    """The passage of one edge, whose Q and DQ are named as `insert` names them."""
    edge = QdqEdge(tensor, f"{tensor}_QuantizeLinear", f"{tensor}_DequantizeLinear", reader)
    plan = recorded(log)
    (found,) = with_passages(plan, [edge], ops_of(plan))
    return found.passage


@pytest.mark.parametrize(
    ("log", "tensor", "reader", "expected"),
    [
        # Int8 from the first Conv's epilogue into the second Conv
        ("residual_stream", "Relu_2_out", "Conv_3", Passage.QUANTIZED),
        # Q, DQ and the norm in one kernel
        ("residual_stream", "Add_6_out", "BatchNormalization_7", Passage.INSIDE),
        # that kernel writes Float for the Add two blocks on
        ("residual_stream", "Add_6_out", "Add_12", Passage.FLOAT),
        # DQ was moved into the kernel before the pool, which reads Float
        ("float_pool", "Relu_1_out", "AveragePool_2", Passage.FLOAT),
        ("int8_pool", "Relu_1_out", "AveragePool_2", Passage.QUANTIZED),
        # written in Int8, dequantized by a kernel of its own, read in Float
        ("conv_transpose", "Relu_1_out", "ConvTranspose_2", Passage.FLOAT),
        # Q moved back over Concat and MaxPool: the pools read and write Int8
        ("pyramid", "Concat_5_out", "Conv_6", Passage.QUANTIZED),
        ("pyramid", "Concat_11_out", "Conv_12", Passage.QUANTIZED),
        ("gru", "Squeeze_1_out", "MatMul_2", Passage.QUANTIZED),
        ("gru", "another", "node", Passage.ABSENT),
    ],
)
def test_the_way_of_a_tensor_is_told_by_the_kernels_that_name_its_pair(
    log: str, tensor: str, reader: str, expected: Passage
) -> None:
    assert passage(log, tensor, reader) is expected


def test_a_dequantize_of_codes_without_a_quantize_is_told_by_its_reader_alone() -> None:
    edge = QdqEdge("codes", None, "Relu_2_out_DequantizeLinear", "Conv_3")
    (found,) = with_passages(recorded("residual_stream"), [edge], {})
    assert found.passage is Passage.QUANTIZED


def ops_of(plan: EnginePlan) -> dict[str, str]:
    """The op of each node: the names say it, `Conv_0` and `x_QuantizeLinear`."""
    nodes = {node for layer in plan.layers for node in layer.onnx_nodes}
    is_pair = {x: x.rpartition("_")[2] in ("QuantizeLinear", "DequantizeLinear") for x in nodes}
    return {x: x.rpartition("_")[2] if is_pair[x] else x.partition("_")[0] for x in nodes}


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("int8_pool", ["__myl_MulMinMaxRounCast_myl0_0"]),  # the network's input alone
        ("float_pool", ["__myl_MulMinMaxRounCast_myl0_0", "__myl_MulMinMaxRounCast_myl0_4"]),
        ("conv_transpose", ["__myl_MulMinMaxRounCast_myl0_0", "__myl_CastMulCast_myl0_3"]),
    ],
)
def test_kernels_that_only_quantize_or_dequantize_are_told(log: str, expected: list[str]) -> None:
    plan = recorded(log)
    assert [layer.name for layer in qdq_layers(plan, ops_of(plan))] == expected


@pytest.mark.parametrize(
    ("log", "node", "op", "expected"),
    [
        ("float_pool", "AveragePool_2", "AveragePool", Precision.FP32),
        ("int8_pool", "AveragePool_2", "AveragePool", Precision.INT8),
        ("pyramid", "MaxPool_3", "MaxPool", Precision.INT8),
        ("pyramid", "Mul_2", "Mul", Precision.INT8),  # SiLU in a Conv's epilogue, which writes Int8
        ("residual_stream", "Add_12", "Add", Precision.FP32),  # reads the stream in Float
        ("conv_transpose", "ConvTranspose_2", "ConvTranspose", Precision.FP32),
    ],
)
def test_an_op_without_weights_has_the_type_that_its_kernel_reads(
    log: str, node: str, op: str, expected: Precision
) -> None:
    assert node_precisions(recorded(log), [(node, op)])[0].precision is expected


def test_tensors_between_kernels_are_told_with_type_bytes_writers_and_readers() -> None:
    plan: EnginePlan = recorded("int8_pool")
    crossings = {x.readers[0] if x.readers else "": x for x in plan.crossings}
    assert crossings["__myl_MulMinMaxRounCast_myl0_0"].view.name == "x"
    assert crossings["__myl_MulMinMaxRounCast_myl0_0"].writers == ()
    pooled = crossings["Conv_3_myl0_4"]
    assert (pooled.view.dtype, pooled.view.bytes) == ("Int8", 8 * 4 * 4)
    assert pooled.writers == ("__mye385_pooling_myl0_3",)
    assert crossings[""].view.name == "y"
    read_and_written = sum(x.view.bytes * len(x.readers + x.writers) for x in plan.crossings)
    assert read_and_written == plan.activation_bytes

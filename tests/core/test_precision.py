from __future__ import annotations

from pathlib import Path

from onnxqat.core.engine_plan import EngineLayer, EnginePlan, TensorView
from onnxqat.core.precision import (
    NodePrecision,
    Precision,
    count_in,
    layer_precision,
    node_precisions,
)
from onnxqat.engine.layers import parse_log

LOGS = Path(__file__).parents[1] / "engine" / "logs"


def recorded(name: str) -> EnginePlan:
    return parse_log((LOGS / f"{name}.txt").read_text(), target="SM89")


def precision_of(log: str, node: str, op: str) -> Precision:
    return node_precisions(recorded(log), [(node, op)])[0].precision


def layer(
    inputs: str,
    constants: str = "",
    *,
    name: str = "gemm_myl0_0",
    kind: str = "gemm",
    tactic: str = "",
) -> EngineLayer:
    """A layer that reads [8, 8] tensors of these datatypes and writes Float."""

    def views(dtypes: str) -> tuple[TensorView, ...]:
        return tuple(TensorView("t", (8, 8), dtype, 0) for dtype in dtypes.split())

    return EngineLayer(
        name, kind, views(inputs), views(constants), views("Float"), ("n",), tactic=tactic
    )


def test_a_convolution_is_in_int8_by_its_correlation_and_not_by_its_epilogue() -> None:
    (conv,) = node_precisions(recorded("resnet20_int8"), [("/conv1/Conv", "Conv")])

    assert conv.precision is Precision.INT8
    assert conv.layer == "/conv1/Conv_myl0_1"


def test_nodes_merged_into_one_kernel_all_run_in_it() -> None:
    qkv = node_precisions(recorded("attention_int8"), [(f"/{n}0", "MatMul") for n in "qkv"])

    assert {node.layer for node in qkv} == {"/v0+/k0+/q0_myl0_1"}
    assert count_in(Precision.INT8, qkv) == 3


def test_both_products_of_fused_attention_run_in_its_kernel() -> None:
    scores, context = node_precisions(
        recorded("attention_int8"), [("/scores", "MatMul"), ("/ctx", "MatMul")]
    )

    name = "_gemm_mha_v2_myl0_5"
    assert scores == NodePrecision("/scores", "MatMul", Precision.INT8, name, (name,))
    assert context.precision is Precision.INT8


def test_a_kernel_that_casts_int8_before_it_multiplies_runs_in_float() -> None:
    assert precision_of("wrong_axis", "gemm", "Gemm") is Precision.FP32


def test_a_node_that_no_layer_names_is_absent() -> None:
    assert node_precisions(recorded("wrong_axis"), [("other", "Conv")]) == (
        NodePrecision("other", "Conv", Precision.ABSENT, None),
    )


def test_one_quantized_side_is_not_enough_for_int8() -> None:
    assert layer_precision(layer("Int8", "Float")) is Precision.FP32
    assert layer_precision(layer("Half", "Int8")) is Precision.FP16
    assert layer_precision(layer("Int8", "Int8")) is Precision.INT8
    assert layer_precision(layer("Int8 Int8")) is Precision.INT8


def test_other_types_are_told_by_their_names() -> None:
    assert layer_precision(layer("FP8", "FP8")) is Precision.FP8
    assert layer_precision(layer("Half", "Half")) is Precision.FP16
    assert layer_precision(layer("BFloat16", "BFloat16")) is Precision.BF16


def test_a_scalar_scale_does_not_tell_the_type_of_the_work() -> None:
    half = layer("Half", "Half")
    scale = TensorView("s", (1,), "Float", 4)
    no_output = EngineLayer("gemm", "gemm", half.inputs, (*half.constants, scale), (), ("n",))

    assert layer_precision(no_output) is Precision.FP16


def test_fused_attention_with_a_float_operand_is_not_in_int8() -> None:
    attention = layer("Int8 Int8 Float", kind="kgen", tactic="_gemm_mha_v2_0x254e")

    assert layer_precision(attention) is Precision.FP32


def test_an_unknown_kind_of_layer_is_judged_by_its_operands() -> None:
    plan = EnginePlan("rtx", "SM89", (layer("Int8", "Int8", name="n_7", kind="novelty"),))

    assert node_precisions(plan, [("n", "Conv")])[0].precision is Precision.INT8


def test_the_names_of_onnx_nodes_do_not_mislead() -> None:
    cast = layer("Int8", "Int8", name="/Cast/_mha_/Conv_myl0_1", kind="correlation")

    assert layer_precision(cast) is Precision.INT8

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxqat.core.codec import decode, encode
from onnxqat.core.engine_plan import EnginePlan
from onnxqat.core.errors import BuildError, ModelError
from onnxqat.core.precision import Precision
from onnxqat.engine import ShapeRange, build
from tests.support.assets import MODELS, WILD, needs_assets
from tests.support.compile import model_of, needs_compiler, precisions
from tests.support.peer_quantizer import quantize_for_tensorrt
from tests.support.qdq_text import CODES, conv

pytestmark = needs_compiler

AUDIO_NET = """<ir_version: 9, opset_import: ["" : 17]>
    net (float[batch, length] audio) => (float[batch, length] y) { [relu] y = Relu (audio) }"""


def samples(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_a_quantized_convolution_compiles_to_int8() -> None:
    model = conv()
    built = build(model, backend="rtx")

    assert precisions(model, built) == {Precision.INT8: 1}
    assert [kernel.kind for kernel in built.plan.kernels] == ["kgen", "correlation", "kgen"]
    assert (built.plan.backend, built.plan.target, built.plan.unread) == ("rtx", "SM89", ())
    assert len(built.engine) > 1000


def test_stored_int8_codes_compile_to_int8_too() -> None:
    model = conv(
        weights=f"int8[8, 8, 1, 1] W = {{{CODES}}}",
        weight_pair="[W_DQ] wd = DequantizeLinear <axis = 0> (W, ws, wz)",
    )

    assert precisions(model, build(model, backend="rtx")) == {Precision.INT8: 1}


@needs_assets
def test_resnet20_in_float_is_25_kernels_and_2_036_mb_of_activations() -> None:
    path = MODELS / "cifar10_resnet20.onnx"
    built = build(path, backend="rtx")

    assert len(built.plan.kernels) == 25
    assert built.plan.activation_bytes == 2_036_344
    assert precisions(path, built) == {Precision.FP32: 20}


@needs_assets
def test_resnet20_quantized_by_onnxruntime_is_42_kernels_and_1_991_mb(tmp_path: Path) -> None:
    path = tmp_path / "qdq.onnx"
    quantize_for_tensorrt(MODELS / "cifar10_resnet20.onnx", path, {"input": samples(8, 3, 32, 32)})
    built = build(path, backend="rtx")

    assert len(built.plan.kernels) == 42
    assert built.plan.activation_bytes == 1_990_912
    assert precisions(path, built) == {Precision.INT8: 20}


@needs_assets
@pytest.mark.parametrize(
    ("name", "heavy"),
    [("squeezenet11_caffe2_opset7_fp32cast", 26), ("ultraface_rfb320_pytorch12_opset9", 52)],
)
def test_every_heavy_node_of_old_files_with_unnamed_nodes_is_found_in_the_plan(
    name: str, heavy: int
) -> None:
    path = WILD / f"{name}.onnx"

    assert precisions(path, build(path, backend="rtx")) == {Precision.FP32: heavy}


@needs_assets
@pytest.mark.slow
@pytest.mark.parametrize("path", sorted([*MODELS.glob("*.onnx"), *WILD.glob("*.onnx")]))
def test_every_pretrained_model_compiles_with_all_layers_read(path: Path) -> None:
    if path.name.startswith(("dtln", "silero")):  # LSTM; If with shapes that differ
        shapes = {"input": (1, 576)} if path.name.startswith("silero") else {}
        with pytest.raises(BuildError, match="TensorRT refuses"):
            build(path, backend="rtx", shapes=shapes)
        return
    built = build(path, backend="rtx")

    assert built.plan.unread == ()
    assert set(precisions(path, built)) == {Precision.FP32}


def test_the_target_is_the_one_asked_for() -> None:
    assert build(conv(), backend="rtx", compute_capability=(7, 5)).plan.target == "SM75"


def test_a_target_that_the_compiler_lacks_is_an_error() -> None:
    with pytest.raises(BuildError, match="does not compile for SM90"):
        build(conv(), backend="rtx", compute_capability=(9, 0))


def test_given_shapes_are_compiled() -> None:
    plan = build(model_of(AUDIO_NET), backend="rtx", shapes={"audio": (2, 100)}).plan

    assert plan.kernels[0].inputs[0].shape == (2, 100)


def test_a_range_of_shapes_makes_a_plan_with_dynamic_dimensions() -> None:
    shapes = {"audio": ShapeRange((1, 100), (2, 100), (4, 100))}
    plan = build(model_of(AUDIO_NET), backend="rtx", shapes=shapes).plan

    assert plan.kernels[-1].inputs[0].shape == (-1, 100)


def test_names_with_commas_brackets_and_spaces_survive_the_compiler_s_list() -> None:
    model = conv()
    image = model.graph.input[0]
    image.name = model.graph.node[0].input[0] = "in [0], {a}: x"
    image.type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.node[-1].name = "block [1], conv: a"
    built = build(model, backend="rtx")

    assert built.plan.unread == ()
    assert built.plan.kernels[0].inputs[0].name == "in [0], {a}: x"
    assert precisions(model, built) == {Precision.INT8: 1}


def test_a_model_with_external_data_compiles_from_its_path(tmp_path: Path) -> None:
    model = model_of(AUDIO_NET)
    path = tmp_path / "external.onnx"
    weights = onnx.numpy_helper.from_array(samples(64, 64), "w")
    model.graph.initializer.append(weights)
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("MatMul", ["audio", "w"], ["y"], name="mm"))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    built = build(path, backend="rtx", shapes={"audio": (1, 64)})

    assert precisions(path, built) == {Precision.FP32: 1}


def test_the_plan_survives_a_json_round_trip() -> None:
    plan = build(conv(), backend="rtx").plan

    assert decode(EnginePlan, encode(plan)) == plan


def test_building_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    built = build(conv(), backend="rtx")

    assert capfd.readouterr() == ("", "")
    assert "Layers:" in built.log


def test_the_compiler_is_not_loaded_into_the_caller_s_process() -> None:
    script = (
        "import sys, os; from tests.support.qdq_text import conv; from onnxqat.engine import build;"
        "build(conv(), backend='rtx');"
        "assert not {'tensorrt', 'tensorrt_rtx'} & set(sys.modules);"
        "assert 'POLYGRAPHY_USE_TENSORRT_RTX' not in os.environ"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False
    )

    assert done.returncode == 0


REFUSED: dict[str, tuple[Mapping[str, str], str, str, str]] = {
    # spoiled parts; words of the compiler; node; words of the fix
    "a zero point that is not 0": (
        {"zero_point": "int8 z = {5}"},
        "zero point",
        "x_Q",
        "symmetric",
    ),
    "a scale of 0": ({"scale": "float s = {0.0}"}, "must all be positive", "x_Q", "scale floor"),
    "a scale too short": (
        {
            "weight_scale": "float[4] ws = {0.1, 0.1, 0.1, 0.1}",
            "weight_zero_point": "int8[4] wz = {0, 0, 0, 0}",
        },
        "number of scales",
        "W_Q",
        "one scale for each channel",
    ),
    "stored UINT8 codes": (
        {
            "weights": f"uint8[8, 8, 1, 1] W = {{{CODES}}}",
            "weight_pair": "[W_DQ] wd = DequantizeLinear <axis = 0> (W, ws)",
        },
        "type of UINT8",
        "W_DQ",
        "int8 codes",
    ),
    "an int32 bias": (
        {
            "more": "int32[8] B = {1, 2, 3, 4, 5, 6, 7, 8}",
            "product": """[B_DQ] b = DequantizeLinear <axis = 0> (B, ws)
                          [conv] y = Conv <kernel_shape = [1, 1]> (xd, wd, b)""",
        },
        "input has type Int32",
        "B_DQ",
        "bias in float",
    ),
    "an integer operator": (
        {
            "outputs": "int32[1, 8, 16, 16] y",
            "weights": f"int8[8, 8, 1, 1] W = {{{CODES}}}",
            "weight_pair": "",
            "product": "[conv] y = ConvInteger <kernel_shape = [1, 1]> (xq, W)",
        },
        "ConvInteger",
        "conv",
        "QDQ format",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_tells_the_compiler_s_words_the_node_and_the_fix(case: str) -> None:
    spoiled, words, node, fix = REFUSED[case]
    with pytest.raises(BuildError, match=words) as caught:
        build(conv(**spoiled), backend="rtx")

    assert caught.value.node == node
    assert fix in (caught.value.fix or "")
    assert "\n" not in caught.value.problem


def test_a_refusal_of_an_unnamed_node_names_its_output() -> None:
    model = conv(zero_point="int8 z = {5}")
    model.graph.node[0].name = ""
    with pytest.raises(BuildError) as caught:
        build(model, backend="rtx")

    assert (caught.value.node, caught.value.tensor) == (None, "xq")


def test_an_operator_that_tensorrt_lacks_is_named() -> None:
    model = conv()
    model.opset_import.append(onnx.helper.make_opsetid("my.own", 1))
    model.graph.node[-1].CopyFrom(
        onnx.helper.make_node("Foo", ["xd"], ["y"], name="foo", domain="my.own")
    )
    with pytest.raises(BuildError, match="refuses this Foo") as caught:
        build(model, backend="rtx")

    assert caught.value.node == "foo"


def test_a_compiler_that_crashes_is_an_error_and_not_a_crash() -> None:
    model = conv(inputs="float[1, 8, 16, 16] x, float s", scale="")
    with pytest.raises(BuildError, match=r"crashed \(signal 11\)"):
        build(model, backend="rtx")


def test_a_file_that_is_no_model_is_an_error_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_text("not a model")
    with pytest.raises(ModelError):
        build(path, backend="rtx")

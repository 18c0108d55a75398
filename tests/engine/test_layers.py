from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from onnxqat.core.engine_plan import EnginePlan, TensorView
from onnxqat.engine.layers import parse_inspector, parse_log

LOGS = Path(__file__).parent / "logs"


def recorded(name: str) -> EnginePlan:
    """Of a log that TensorRT for RTX 1.7.1 wrote, shortened to some of its layers."""
    return parse_log((LOGS / f"{name}.txt").read_text(), target="SM89")


def test_a_quantized_convolution_is_read_with_its_operands_and_its_onnx_nodes() -> None:
    conv = recorded("resnet20_int8").layers[1]

    assert conv.kind == "correlation"
    assert [(v.shape, v.dtype, v.bytes) for v in conv.inputs] == [((1, 4, 32, 32), "Int8", 4096)]
    assert (conv.constants[0].shape, conv.constants[0].dtype) == ((16, 4, 3, 3), "Int8")
    assert [(v.shape, v.dtype, v.bytes) for v in conv.outputs] == [
        ((1, 16, 32, 32), "Float", 65536)
    ]
    assert "/conv1/Conv" in conv.onnx_nodes


def test_every_line_of_the_list_becomes_a_layer_and_none_is_left_unread() -> None:
    counts = {name: len(recorded(name).layers) for name in ("resnet20_int8", "attention_int8")}

    assert counts == {"resnet20_int8": 7, "attention_int8": 8}
    assert all(recorded(file.stem).unread == () for file in LOGS.glob("*.txt"))


def test_bytes_are_those_of_inputs_and_outputs_by_printed_shape_and_type() -> None:
    last = recorded("resnet20_int8").layers[-1]  # [1,10] Float in, [1,10] Float out

    assert last.activation_bytes == 2 * 10 * 4


def test_signals_and_waits_are_layers_and_no_kernels() -> None:
    plan = recorded("streams")

    assert [layer.kind for layer in plan.layers[:2]] == ["signal", "wait"]
    assert [layer.kind for layer in plan.kernels] == ["kgen", "runtime_function", "runtime_fusion"]


def test_names_with_colons_semicolons_and_slashes_are_read_whole() -> None:
    pad = recorded("streams").kernels[0]

    assert pad.inputs[0].name == "serving_default_input_2:0"
    assert pad.outputs[1].name.startswith("model_1/cq_t2010v2_1/reflection_pad1d/MirrorPad;")


def test_onnx_nodes_parted_by_a_unit_separator_are_told_apart() -> None:
    nodes = recorded("streams").kernels[-1].onnx_nodes

    assert len(nodes) == 2
    assert not any("\x1f" in node or "[" in node for node in nodes)


def test_a_dynamic_dimension_counts_as_one_item() -> None:
    move = recorded("dynamic").kernels[0]

    assert move.inputs == (TensorView("input", (-1, 3, 32, 32), "Float", 3 * 32 * 32 * 4),)


def test_an_unknown_kind_of_layer_is_kept() -> None:
    log = (LOGS / "wrong_axis.txt").read_text().replace("LayerType: kgen", "LayerType: novelty")

    assert [layer.kind for layer in parse_log(log, target="SM89").layers] == [
        "novelty",
        "runtime_fusion",
    ]


def test_an_unknown_datatype_is_reported_and_costs_no_bytes() -> None:
    log = (LOGS / "wrong_axis.txt").read_text().replace("Datatype: Int8", "Datatype: Int3")
    plan = parse_log(log, target="SM89")

    assert plan.unread == ("datatype Int3",)
    assert plan.layers[1].inputs[0].bytes == 0


def test_a_line_in_a_new_format_is_reported_instead_of_dropped() -> None:
    plan = parse_log("  Name: a, LayerType: gemm, Somewhere: else", target="SM89")

    assert plan.layers == ()
    assert plan.unread == ("Name: a, LayerType: gemm, Somewhere: else",)


def test_the_inspector_of_tensorrt_is_read_in_both_of_its_spellings() -> None:
    old = {
        "Name": "conv",
        "LayerType": "CaskConvolution",
        "ParameterType": "Convolution",
        "Inputs": [
            {
                "Name": "x",
                "Dimensions": [1, 32, 8, 8],
                "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format.",
            }
        ],
        "Outputs": [
            {
                "Name": "y",
                "Dimensions": [1, 32, 8, 8],
                "Format/Datatype": "Row major linear FP16 format",
            }
        ],
        "Weights": {"Type": "Int8", "Count": 9216},
        "Metadata": "[ONNX Layer: conv]\x1e[ONNX Layer: relu]",
    }
    new = {
        "Name": "gemm",
        "LayerType": "gemm",
        "Inputs": [{"Name": "x", "Dimensions": [4, 8], "Datatype": "Half", "Format": "Row major"}],
        "Outputs": [],
        "Constants": [{"Name": "w", "Dimensions": [8, 8], "Datatype": "Half"}],
        "Metadata": "",
    }
    plan = parse_inspector(json.dumps({"Layers": [old, new, "a name only"]}), target="SM89")

    conv, gemm = plan.layers
    assert (conv.kind, conv.onnx_nodes) == ("Convolution", ("conv", "relu"))
    assert [view.dtype for view in (*conv.inputs, *conv.constants, *conv.outputs)] == [
        "Int8",
        "Int8",
        "Half",
    ]
    assert conv.activation_bytes == 32 * 64 + 32 * 64 * 2
    assert gemm.constants == (TensorView("w", (8, 8), "Half", 128),)
    assert plan.unread == ("a name only",)


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.txt")), ids=lambda path: path.stem)
def test_whatever_is_spoiled_in_a_log_each_layer_is_read_or_reported(log: Path) -> None:
    lines = [line for line in log.read_text().split("\n") if ", LayerType: " in line]
    random = Random(log.stem)
    for _ in range(50):
        spoiled = []
        for line in lines:
            start, length = random.randrange(len(line)), random.randrange(40)
            spoiled.append(line[:start] + line[start + length :])
        plan = parse_log("\n".join(spoiled), target="SM89")
        listed = [line for line in spoiled if ", LayerType: " in line]
        reported = [line for line in plan.unread if ", LayerType: " in line]
        assert len(plan.layers) + len(reported) == len(listed)


def test_kinds_of_layers_that_are_new_are_reported() -> None:
    log = (LOGS / "wrong_axis.txt").read_text().replace("LayerType: kgen", "LayerType: novelty")
    assert parse_log(log, target="SM89").unread == ("kind novelty",)

"""The rules about where a file is meant to run, quantized or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxqat.auditing import AuditConfig, audit, fix
from onnxqat.core.errors import BuildError
from onnxqat.core.finding import Finding
from onnxqat.engine import build
from onnxqat.graph import as_graph, load
from tests.support.compile import needs_compiler
from tests.support.qdq_text import conv
from tests.support.runtime import needs_good_oracle, run, session


def found(model: onnx.ModelProto | Path, *codes: str, **choice: object) -> tuple[Finding, ...]:
    return audit(model, config=AuditConfig(select=codes, **choice))  # type: ignore[arg-type]


def relu(inputs: str, opset: int = 17) -> onnx.ModelProto:
    name = inputs.rsplit(maxsplit=1)[-1]
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> net ({inputs}) => (float[?] y) '
        f"{{ y = Relu ({name}) }}"
    )


def test_an_opset_that_the_parser_warns_about_is_found() -> None:
    (finding,) = found(relu("float[4] x", opset=6), "DEP001")

    assert "opset 6" in finding.message
    assert found(relu("float[4] x", opset=7), "DEP001") == ()


def test_int64_inputs_and_float64_outputs_are_found() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (int64[4] a, float[4] b) => (double[4] y) '
        "{ y = Cast <to = 11> (b) }"
    )

    assert [finding.tensor for finding in found(model, "DEP002")] == ["a", "y"]


def test_dynamic_dimensions_without_a_shape_are_found() -> None:
    (finding,) = found(relu("float[batch, 3, height, width] x"), "DEP003")

    assert (finding.tensor, "[2, 3]" in finding.message) == ("x", True)


def test_a_dynamic_batch_is_no_finding() -> None:
    assert found(relu("float[batch, 3, 8, 8] x"), "DEP003") == ()


def test_dynamic_dimensions_with_a_shape_are_no_finding() -> None:
    model = relu("float[batch, 3, height, width] x")

    assert found(model, "DEP003", shapes={"x": (1, 3, 8, 8)}) == ()


def test_weights_in_another_file_are_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", 1, [1, 64])],
        [helper.make_tensor_value_info("y", 1, [1, 64])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0)

    assert [finding.rule for finding in found(path, "DEP005")] == ["DEP005"]
    assert audit(load(path), config=AuditConfig(select=("DEP005",))) != ()
    assert found(relu("float[4] x"), "DEP005") == ()


def test_a_function_of_the_model_is_no_custom_operator() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        net (float[4] x) => (float[4] y) { y = own.Twice (x) }
        <domain: "own", opset_import: ["" : 17]> Twice (a) => (b) { b = Add (a, a) }"""
    )

    assert found(model, "DEP006") == ()


def test_a_float32_scale_of_a_float16_tensor_is_found() -> None:
    model = conv(
        inputs="float16[1, 8, 16, 16] x",
        data_pair="""xf = Cast <to = 1> (x)
            [x_Q] xq = QuantizeLinear (xf, s, z)  [x_DQ] xd = DequantizeLinear (xq, s, z)""",
    )

    assert [(x.rule, x.node) for x in found(model, "QDQ009")] == [("QDQ009", "x_Q")]
    assert found(conv(), "QDQ009") == ()


def test_four_bit_weights_in_odd_blocks_are_found() -> None:
    def weights(block: int) -> onnx.ModelProto:
        scales = 128 // block
        codes = ", ".join(str(i % 16 - 8) for i in range(128))
        return onnx.parser.parse_model(
            f"""<ir_version: 10, opset_import: ["" : 21]>
            net (float[1, 128] x) => (float[1, 1] y)
            <int4[128, 1] W = {{{codes}}}, float[{scales}, 1] s = {{{", ".join(["0.1"] * scales)}}}>
            {{ [W_DQ] w = DequantizeLinear <axis = 0, block_size = {block}> (W, s)
               y = MatMul (x, w) }}"""
        )

    assert [(x.rule, x.node) for x in found(weights(32), "QDQ017")] == [("QDQ017", "W_DQ")]
    assert found(weights(64), "QDQ017") == ()


def pool(op: str, size: str, window: int, strides: int = 1) -> onnx.ModelProto:
    """A pool of square windows, rounded up."""
    pair = f"kernel_shape = [{window}, {window}], strides = [{strides}, {strides}], ceil_mode = 1"
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> net (float[1, 2, {size}] x) => '
        f"(float[1, 2, h, w] y) {{ [pool] y = {op} <{pair}> (x) }}"
    )


@needs_compiler
@needs_good_oracle
@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
def test_a_window_that_the_compiler_refuses_is_found_and_clipped_to_its_input(op: str) -> None:
    model = pool(op, "4, 5", window=320, strides=320)
    with pytest.raises(BuildError):
        build(as_graph(model), backend="rtx")

    (finding,) = found(model, "DEP007")
    fixed = fix(model, config=AuditConfig(select=("DEP007",)))

    assert (finding.node, finding.is_fixable, fixed.left) == ("pool", True, ())
    build(fixed.graph, backend="rtx")
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(run(fixed.graph, {"x": x})[0], run(model, {"x": x})[0])


@needs_compiler
def test_the_largest_window_that_compiles_is_no_finding() -> None:
    model = pool("MaxPool", "400, 400", window=316)  # 99,856 values

    assert found(model, "DEP007") == ()
    build(as_graph(model), backend="rtx")


def test_too_large_a_window_of_a_larger_or_unknown_input_cannot_be_mended() -> None:
    for size in ("400, 400", "h, w"):
        (finding,) = found(pool("AveragePool", size, window=317), "DEP007")
        assert not finding.is_fixable


def test_random_numbers_are_found_and_make_two_runs_differ() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[4] x) => (float[4] y) '
        "{ [noise] n = RandomNormalLike (x)  y = Add (x, n) }"
    )
    running, x = session(model), np.zeros(4, np.float32)

    assert [(x.rule, x.node) for x in found(model, "DEP008")] == [("DEP008", "noise")]
    assert not np.array_equal(running.run(None, {"x": x})[0], running.run(None, {"x": x})[0])
    assert found(relu("float[4] x"), "DEP008") == ()


@needs_compiler
@pytest.mark.parametrize("opset", [13, 17])
def test_a_normalization_in_training_mode_is_refused_and_found(opset: int) -> None:
    mode, further = ("", ", v, d, e") if opset < 14 else ("<training_mode = 1>", ", v")
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        net (float[2, 1, 4] x) => (float[2, 1, 4] y)
        <float[1] s = {{1}}, float[1] b = {{0}}, float[1] mean = {{0}}, float[1] var = {{1}}>
        {{ [norm] y, m{further} = BatchNormalization {mode} (x, s, b, mean, var) }}"""
    )
    with pytest.raises(BuildError):
        build(as_graph(model), backend="rtx")

    assert [(x.rule, x.node) for x in found(model, "DEP009")] == [("DEP009", "norm")]
    model.graph.node[0].ClearField("attribute")
    del model.graph.node[0].output[1:]
    assert found(model, "DEP009") == ()
    build(as_graph(model), backend="rtx")

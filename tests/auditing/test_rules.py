"""Each rule on one good graph and on one that is spoiled, with the compiler as the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx
import pytest

from onnxqat.auditing import RULES, audit
from onnxqat.core.errors import BuildError
from onnxqat.core.finding import Severity
from onnxqat.core.precision import Precision
from onnxqat.engine import build
from tests.support.compile import model_of, needs_compiler, precisions
from tests.support.qdq_text import CODES, GOOD_SCALES, WEIGHTS, ZEROS, ConvText, conv
from tests.support.seeded import SEEDS

REFUSED = "refused"
"""The compiler refuses the model, or crashes."""

FLOAT = "float"
"""The compiler accepts the model and runs the product in float."""

INT8 = "int8"
"""The compiler runs the product in INT8: the harm is elsewhere."""


@dataclass(frozen=True)
class Bad:
    """A graph with one fault."""

    rule: str
    node: str
    compiled: str
    spoiled: dict[str, str] = field(default_factory=dict)
    model_text: str | None = None

    @property
    def model(self) -> onnx.ModelProto:
        if self.model_text is not None:
            return model_of(self.model_text)
        return conv(**self.spoiled)


def gemm(attributes: str, axis: int) -> str:
    """A Gemm whose weights are quantized along an axis."""
    pair = f"<axis = {axis}>"
    return f"""<ir_version: 9, opset_import: ["" : 19]>
    net (float[4, 8] x) => (float[4, 8] y)
    <float s = {{0.1}}, int8 z = {{0}}, float[8, 8] W = {{{WEIGHTS}}},
     float[8] ws = {{{GOOD_SCALES}}}, int8[8] wz = {{{ZEROS}}}>
    {{ [x_Q] xq = QuantizeLinear (x, s, z)  [x_DQ] xd = DequantizeLinear (xq, s, z)
       [W_Q] wq = QuantizeLinear {pair} (W, ws, wz)
       [W_DQ] wd = DequantizeLinear {pair} (wq, ws, wz)
       [product] y = {attributes} (xd, wd) }}"""


def conv_behind(nodes: str) -> str:
    """A good Conv behind other nodes, which make `scaled` of `x`."""
    pair = """[d_Q] dq = QuantizeLinear (scaled, s, z)  [d_DQ] xd = DequantizeLinear (dq, s, z)"""
    return ConvText(data_pair=f"{nodes} {pair}").text()


def transposed(axis: int) -> str:
    """A MatMul that reads its quantized weights through a Transpose."""
    return gemm("MatMul", axis).replace(
        "[product]", "wt = Transpose <perm = [1, 0]> (wd)  [product]"
    ).replace("(xd, wd)", "(xd, wt)")  # fmt: skip


MEASURED = {
    *("ACC001", "ACC002", "ACC003", "CAL008", "CAL009", "CAL010"),
    *("ENG001", "ENG002", "ENG003", "ENG004", "ENG005", "ENG006", "ENG007"),
    *("DEP001", "DEP002", "DEP003", "DEP005", "DEP007", "DEP008", "DEP009", "DEP010"),
    *("QDQ009", "QDQ017", "QDQ123"),
}
"""Rules that have tests of their own, in test_measured.py, test_deployment.py, test_formats.py and
tests/graph/passes/test_functions.py."""

ONE_SCALE = {"scale": "float[1] s = {0.02}", "zero_point": "int8[1] z = {0}"}

BAD: dict[str, Bad] = {
    "zero point 5": Bad("QDQ001", "x_Q", REFUSED, {"zero_point": "int8 z = {5}"}),
    "zero point 128": Bad("QDQ001", "x_Q", REFUSED, {"zero_point": "uint8 z = {128}"}),
    "one zero point of the weights": Bad(
        "QDQ001", "W_Q", REFUSED, {"weight_zero_point": "int8[8] wz = {0, 0, 0, 1, 0, 0, 0, 0}"}
    ),
    "no zero point": Bad(
        "QDQ002",
        "x_Q",
        INT8,
        {"data_pair": "[x_Q] xq = QuantizeLinear (x, s) [x_DQ] xd = DequantizeLinear (xq, s)"},
    ),
    "UINT8 codes": Bad("QDQ003", "x_Q", INT8, {"zero_point": "uint8 z = {0}"}),
    "scale 0": Bad("QDQ004", "x_Q", REFUSED, {"scale": "float s = {0.0}"}),
    "negative scale": Bad("QDQ004", "x_Q", REFUSED, {"scale": "float s = {-0.1}"}),
    "a dead channel": Bad(
        "QDQ004",
        "W_Q",
        REFUSED,
        {"weight_scale": "float[8] ws = {0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0}"},
    ),
    "scale from an input": Bad(
        "QDQ005", "x_Q", REFUSED, {"inputs": "float[1, 8, 16, 16] x, float s", "scale": ""}
    ),
    "scale from the data": Bad(
        "QDQ005",
        "x_Q",
        REFUSED,
        {
            "scale": "",
            "data_pair": """s = ReduceMax <keepdims = 0> (x)
                [x_Q] xq = QuantizeLinear (x, s, z)  [x_DQ] xd = DequantizeLinear (xq, s, z)""",
        },
    ),
    "too few scales": Bad(
        "QDQ006",
        "W_Q",
        REFUSED,
        {
            "weight_scale": "float[4] ws = {0.1, 0.1, 0.1, 0.1}",
            "weight_zero_point": "int8[4] wz = {0, 0, 0, 0}",
        },
    ),
    "activation per channel": Bad(
        "QDQ007",
        "x_Q",
        FLOAT,
        {"scale": f"float[8] s = {{{GOOD_SCALES}}}", "zero_point": f"int8[8] z = {{{ZEROS}}}"},
    ),
    "activation scale of shape [1]": Bad("QDQ007", "x_Q", FLOAT, ONE_SCALE),
    "ConvInteger": Bad(
        "QDQ011",
        "product",
        REFUSED,
        model_text="""<ir_version: 9, opset_import: ["" : 19]>
        net (int8[1, 8, 4, 4] x, int8[8, 8, 1, 1] w) => (int32[1, 8, 4, 4] y)
        { [product] y = ConvInteger <kernel_shape = [1, 1]> (x, w) }""",
    ),
    "DynamicQuantizeLinear": Bad(
        "QDQ011",
        "dynamic",
        REFUSED,
        model_text="""<ir_version: 9, opset_import: ["" : 19]>
        net (float[4, 8] x) => (uint8[4, 8] y) { [dynamic] y, s, z = DynamicQuantizeLinear (x) }""",
    ),
    "int32 bias": Bad(
        "QDQ012",
        "B_DQ",
        REFUSED,
        {
            "more": "int32[8] B = {1, 2, 3, 4, 5, 6, 7, 8}",
            "product": """[B_DQ] b = DequantizeLinear <axis = 0> (B, ws)
                          [product] y = Conv <kernel_shape = [1, 1]> (xd, wd, b)""",
        },
    ),
    "stored UINT8 codes": Bad(
        "QDQ013",
        "W_DQ",
        REFUSED,
        {
            "weights": f"uint8[8, 8, 1, 1] W = {{{CODES}}}",
            "weight_pair": "[W_DQ] wd = DequantizeLinear <axis = 0> (W, ws)",
        },
    ),
    "stored INT16 codes": Bad(
        "QDQ013",
        "W_DQ",
        REFUSED,
        {
            "weights": f"int16[8, 8, 1, 1] W = {{{CODES}}}",
            "weight_pair": "[W_DQ] wd = DequantizeLinear <axis = 0> (W, ws)",
        },
    ),
    "data alone": Bad(
        "QDQ101",
        "product",
        FLOAT,
        {"weight_pair": "", "product": "[product] y = Conv <kernel_shape = [1, 1]> (xd, W)"},
    ),
    "weights alone": Bad(
        "QDQ101",
        "product",
        FLOAT,
        {"data_pair": "", "product": "[product] y = Conv <kernel_shape = [1, 1]> (x, wd)"},
    ),
    "Conv weights along axis 1": Bad(
        "QDQ103",
        "conv",
        FLOAT,
        {
            "weight_pair": """[W_Q] wq = QuantizeLinear <axis = 1> (W, ws, wz)
                              [W_DQ] wd = DequantizeLinear <axis = 1> (wq, ws, wz)"""
        },
    ),
    "Conv weights without axis": Bad(
        "QDQ103",
        "conv",
        FLOAT,
        {
            "weight_pair": """[W_Q] wq = QuantizeLinear (W, ws, wz)
                              [W_DQ] wd = DequantizeLinear (wq, ws, wz)"""
        },
    ),
    "MatMul along axis 0": Bad("QDQ103", "product", FLOAT, model_text=gemm("MatMul", 0)),
    "Gemm along axis 0": Bad("QDQ103", "product", FLOAT, model_text=gemm("Gemm", 0)),
    "Gemm transB along axis 1": Bad(
        "QDQ103", "product", FLOAT, model_text=gemm("Gemm <transB = 1>", 1)
    ),
    "transposed weights": Bad("QDQ103", "product", FLOAT, model_text=transposed(1)),
    "quantized output": Bad(
        "QDQ114",
        "y_DQ",
        INT8,
        {
            "product": """[product] c = Conv <kernel_shape = [1, 1]> (xd, wd)
                [y_Q] cq = QuantizeLinear (c, s, z)  [y_DQ] y = DequantizeLinear (cq, s, z)"""
        },
    ),
    "INT8 output": Bad(
        "QDQ114",
        "y_Q",
        INT8,
        {
            "outputs": "int8[1, 8, 16, 16] y",
            "product": """[product] c = Conv <kernel_shape = [1, 1]> (xd, wd)
                          [y_Q] y = QuantizeLinear (c, s, z)""",
        },
    ),
    "scale below FP16": Bad("CAL001", "x_Q", INT8, {"scale": "float s = {1e-40}"}),
    "INT16 activations": Bad("QDQ010", "x_Q", REFUSED, {"zero_point": "int16 z = {0}"}),
    "a scalar": Bad(
        "QDQ008",
        "x_Q",
        INT8,
        model_text=conv_behind("""one = ReduceMean <keepdims = 0> (x)
            [x_Q] oneq = QuantizeLinear (one, s, z)  [x_DQ] oned = DequantizeLinear (oneq, s, z)
            scaled = Mul (x, oned)"""),
    ),
    "scales per channel in opset 11": Bad(
        "QDQ014",
        "W_Q",
        FLOAT,
        {
            "opset": 11,
            "weight_pair": """[W_Q] wq = QuantizeLinear (W, ws, wz)
                              [W_DQ] wd = DequantizeLinear (wq, ws, wz)""",
            "weights": f"float[8, 8] W = {{{WEIGHTS}}}",
            "inputs": "float[4, 8] x",
            "outputs": "float[4, 8] y",
            "product": "[product] y = MatMul (xd, wd)",
        },
    ),
    "INT8 in blocks": Bad(
        "QDQ015",
        "W_DQ",
        REFUSED,
        {
            "weights": f"int8[8, 8, 1, 1] W = {{{CODES}}}",
            "weight_scale": f"float[8, 2, 1, 1] ws = {{{', '.join(['0.01'] * 16)}}}",
            "weight_pair": "[W_DQ] wd = DequantizeLinear <axis = 1, block_size = 4> (W, ws)",
        },
    ),
    "another scale behind than before": Bad(
        "QDQ018",
        "x_DQ",
        INT8,
        {
            "more": "float s2 = {0.04}",
            "data_pair": """[x_Q] xq = QuantizeLinear (x, s, z)
                            [x_DQ] xd = DequantizeLinear (xq, s2, z)""",
        },
    ),
    "FP8 data and INT8 weights": Bad(
        "QDQ019", "conv", REFUSED, {"zero_point": "float8e4m3fn z = {0}"}
    ),
    "INT4 activations": Bad("QDQ016", "x_Q", REFUSED, {"zero_point": "int4 z = {0}"}),
    "a Q too many": Bad(
        "QDQ120",
        "lone",
        INT8,
        {
            "product": """[lone] left = QuantizeLinear (x, s, z)
                          [product] y = Conv <kernel_shape = [1, 1]> (xd, wd)"""
        },
    ),
    "two pairs in a row": Bad(
        "QDQ121",
        "x_Q2",
        INT8,
        {
            "data_pair": """
            [x_Q] xq = QuantizeLinear (x, s, z)  [x_DQ] x1 = DequantizeLinear (xq, s, z)
            [x_Q2] xq2 = QuantizeLinear (x1, s, z)  [x_DQ2] xd = DequantizeLinear (xq2, s, z)"""
        },
    ),
    "an operator that TensorRT lacks": Bad(
        "DEP004",
        "det",
        REFUSED,
        model_text="""<ir_version: 9, opset_import: ["" : 19]>
        net (float[4, 4] x) => (float y) { [det] y = Det (x) }""",
    ),
}

GOOD: dict[str, onnx.ModelProto] = {
    "conv": conv(),
    "stored codes": conv(
        weights=f"int8[8, 8, 1, 1] W = {{{CODES}}}",
        weight_pair="[W_DQ] wd = DequantizeLinear <axis = 0> (W, ws)",
    ),
    "weights per tensor": conv(
        weight_scale="float ws = {0.01}",
        weight_zero_point="int8 wz = {0}",
        weight_pair="""[W_Q] wq = QuantizeLinear (W, ws, wz)
                       [W_DQ] wd = DequantizeLinear (wq, ws, wz)""",
    ),
    "scale in a Constant node": conv(
        scale="",
        data_pair="""s = Constant <value_float = 0.02> ()
            [x_Q] xq = QuantizeLinear (x, s, z)  [x_DQ] xd = DequantizeLinear (xq, s, z)""",
    ),
    "scale computed of constants": conv(
        scale="float s2 = {0.04}",
        more="float half = {0.5}",
        data_pair="""s = Mul (s2, half)
            [x_Q] xq = QuantizeLinear (x, s, z)  [x_DQ] xd = DequantizeLinear (xq, s, z)""",
    ),
    "MatMul": model_of(gemm("MatMul", 1)),
    "MatMul, axis from the end": model_of(gemm("MatMul", -1)),
    "Gemm": model_of(gemm("Gemm", 1)),
    "Gemm transB": model_of(gemm("Gemm <transB = 1>", 0)),
    "transposed weights": model_of(transposed(0)),
    "data through a pool": conv(
        data_pair="""
        [x_Q] xq = QuantizeLinear (x, s, z)  [x_DQ] xp = DequantizeLinear (xq, s, z)
        xd = MaxPool <kernel_shape = [1, 1]> (xp)"""
    ),
    "4-bit weights alone": conv(
        weights=f"int4[8, 8, 1, 1] W = {{{', '.join(str(i % 16 - 8) for i in range(64))}}}",
        data_pair="",
        weight_pair="[W_DQ] wd = DequantizeLinear <axis = 0> (W, ws)",
        product="[product] y = Conv <kernel_shape = [1, 1]> (x, wd)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_spoiled_graph_is_found_at_its_node_and_no_other_rule_objects(case: str) -> None:
    bad = BAD[case]

    assert [(finding.rule, finding.node) for finding in audit(bad.model)] == [(bad.rule, bad.node)]


@pytest.mark.parametrize("case", GOOD)
def test_a_good_graph_has_no_findings(case: str) -> None:
    assert audit(GOOD[case]) == ()


@pytest.mark.parametrize("case", BAD)
def test_a_finding_says_what_is_wrong_and_what_to_do(case: str) -> None:
    (finding,) = audit(BAD[case].model)

    assert len(finding.message) > 20
    assert finding.fix


def test_every_rule_has_a_spoiled_graph() -> None:
    spoiled = {bad.rule for bad in BAD.values()} | {seed.rule for seed in SEEDS}

    assert spoiled | MEASURED == set(RULES)


@needs_compiler
@pytest.mark.parametrize("case", BAD)
def test_the_compiler_confirms_each_fault(case: str) -> None:
    bad = BAD[case]
    assert (RULES[bad.rule].severity is Severity.ERROR) == (bad.compiled == REFUSED)
    if bad.compiled == REFUSED:
        with pytest.raises(BuildError, match=r"refuses|crashed"):
            build(bad.model, backend="rtx")
        return
    wanted = Precision.FP32 if bad.compiled == FLOAT else Precision.INT8
    assert precisions(bad.model, build(bad.model, backend="rtx")) == {wanted: 1}


@needs_compiler
@pytest.mark.parametrize("case", sorted(set(GOOD) - {"4-bit weights alone"}))
def test_the_compiler_runs_the_good_graphs_in_int8(case: str) -> None:
    model = GOOD[case]

    assert precisions(model, build(model, backend="rtx")) == {Precision.INT8: 1}


@pytest.mark.parametrize(("other", "found"), [("xd", ["QDQ101"]), ("r", [])])
def test_data_of_which_a_part_is_float_are_not_quantized(other: str, found: list[str]) -> None:
    """A Conv in float may read a Concat with a tensor that is stored in INT8 for others."""
    product = f"""
        r = Relu (x)
        j = Concat <axis = 2> (xd, {other})
        [product] y = Conv <kernel_shape = [1, 1]> (j, W)"""
    model = conv(weight_pair="", outputs="float[1, 8, 32, 16] y", product=product)
    assert [finding.rule for finding in audit(model) if finding.rule == "QDQ101"] == found

"""Attention becomes the products that ONNX defines it by, which compile, and to INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxqat.auditing import audit
from onnxqat.calibration import calibrate
from onnxqat.core.engine_plan import Precision
from onnxqat.core.errors import BuildError
from onnxqat.data import open_data
from onnxqat.engine import build
from onnxqat.graph import Change, as_graph, input_specs, insert, prepare
from onnxqat.placement import place
from tests.support.compile import needs_compiler, precisions
from tests.support.onnx_text import model_of
from tests.support.runtime import needs_good_oracle, run

SIZE = {"q": (2, 4, 16, 8), "k": (2, 4, 16, 8), "v": (2, 4, 16, 8)}
GROUPED = SIZE | {"k": (2, 2, 16, 8), "v": (2, 2, 16, 8)}
FLAT = {"q": (2, 16, 32), "k": (2, 16, 32), "v": (2, 16, 32)}
CASES = {
    "plain": ("Attention (q, k, v)", SIZE),
    "causal": ("Attention <is_causal = 1> (q, k, v)", SIZE),
    "scaled": ("Attention <scale = 0.1, softcap = 2.0> (q, k, v)", SIZE),
    "masked by a constant": ("Attention (q, k, v, mask)", SIZE),
    "fewer heads of keys": ("Attention (q, k, v)", GROUPED),
    "heads in one axis": ("Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v)", FLAT),
}
SCORES = "y, ks, vs, scores = Attention (q, k, v)"
NO_MASK = "y, ks, vs = Attention (q, k, v, , past_k, past_v)"


def attention(name: str) -> onnx.ModelProto:
    call, shapes = CASES[name]
    inputs = ", ".join(f"float{list(shape)} {tensor}" for tensor, shape in shapes.items())
    y = list(shapes["q"])
    mask = np.tril(np.ones((16, 16), bool))
    constants = {"mask": mask} if "mask" in call else {}
    return model_of(f"g ({inputs}) => (float{y} y) {{ y = {call} }}", opset=23, ir=11, **constants)


def draw(name: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        tensor: generator.standard_normal(shape).astype(np.float32)
        for tensor, shape in CASES[name][1].items()
    }


@needs_good_oracle
@pytest.mark.parametrize("name", CASES)
def test_attention_becomes_products_that_compute_the_same(name: str) -> None:
    told: list[Change] = []

    graph = prepare(as_graph(attention(name)), on_change=told.append)

    ops = [node.op for node in graph.nodes]
    assert ("Attention" in ops, ops.count("MatMul")) == (False, 2)
    assert [x.node for x in told if x.kind == "inline operator"] == ["Attention_y"]
    feeds = draw(name)
    np.testing.assert_allclose(run(graph, feeds)[0], run(attention(name), feeds)[0], atol=1e-5)


@pytest.mark.parametrize("call", [SCORES, NO_MASK])
def test_attention_that_gives_out_scores_or_leaves_inputs_out_stays(call: str) -> None:
    inputs = "float[1, 2, 8, 4] q, float[1, 2, 8, 4] k, float[1, 2, 8, 4] v"
    outputs = "float[1, 2, 8, 4] y, float[1, 2, 8, 8] scores" if call is SCORES else "float[n] y"
    past = ", float[1, 2, 3, 4] past_k, float[1, 2, 3, 4] past_v" * (call is NO_MASK)
    model = model_of(f"g ({inputs}{past}) => ({outputs}) {{ {call} }}", opset=23, ir=11)

    assert [node.op for node in prepare(as_graph(model)).nodes] == ["Attention"]


def test_attention_behind_an_operator_that_nobody_knows_stays() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 11, opset_import: ["" : 23, "own" : 1]>
        net (float[1, 2, 8, 4] x) => (float[1, 2, 8, 4] y) {
            q = own.Strange (x)  y = Attention (q, x, x) }"""
    )

    assert [node.op for node in prepare(as_graph(model)).nodes] == ["Strange", "Attention"]


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_attention_compiles_only_as_products_and_these_to_int8(name: str, tmp_path: Path) -> None:
    model = attention(name)
    is_refused = name != "heads in one axis"
    assert ("DEP010" in {finding.rule for finding in audit(model)}) == is_refused
    if is_refused:
        with pytest.raises(BuildError, match="Attention"):
            build(as_graph(model), backend="rtx")

    np.savez(tmp_path / "samples.npz", **draw(name))
    fp32 = prepare(as_graph(model))
    plan = place(fp32)
    data = open_data(str(tmp_path / "samples.npz"), input_specs(fp32))
    ptq = insert(fp32, plan, calibrate(fp32, plan, data))

    assert "DEP010" not in {finding.rule for finding in audit(ptq)}
    assert precisions(ptq, build(ptq, backend="rtx")) == {Precision.INT8: 2}

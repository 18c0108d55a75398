"""The tables say what the data says."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from onnxqat.core.comparison import Comparison, LayerError
from onnxqat.core.engine_plan import (
    EngineLayer,
    EnginePlan,
    NodePrecision,
    Passage,
    Precision,
    QdqEdge,
    TensorView,
)
from onnxqat.core.finding import Finding, Severity
from onnxqat.core.plan import Edge, Placement, QuantPlan, Skip
from onnxqat.core.spec import PerTensor, QuantDtype, QuantSpec, SharedSpec
from onnxqat.core.summary import ModelRow, StageTime, Summary
from onnxqat.report import console
from onnxqat.report.numbers import NOTHING


def rendered(table: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=160).print(table)
    return out.getvalue()


def row(name: str, **values: object) -> ModelRow:
    nothing = dict.fromkeys(("metric", "agreement", "sqnr_db", "int8_nodes", "activation_bytes"))
    return ModelRow(name=name, heavy_nodes=20, file_bytes=1_100_000, **(nothing | values))


def test_the_summary_shows_each_models_figures_in_its_column():
    summary = Summary(
        model="net.onnx",
        format="int8",
        metric="top1",
        samples=1000,
        target="rtx SM89",
        rows=(
            row("FP32", metric=0.915),
            row("PTQ", metric=0.913, agreement=0.967, sqnr_db=24.84, int8_nodes=20),
            row(
                "QAT",
                metric=0.916,
                metric_change=0.001,
                metric_change_interval=(-0.0044, 0.0064),
                agreement=0.988,
                sqnr_db=30.4,
                activation_bytes=1_991_000,
            ),
        ),
        times=(StageTime("prepare", 0.21), StageTime("finetune", 61.5)),
        notes=("a thing to know",),
    )
    text = rendered(console.summary_table(summary))
    assert [line.split() for line in text.splitlines() if "top1" in line] == [
        ["top1", "91.5", "%", "91.3", "%", "91.6", "%"],
        ["top1", "against", "FP32", NOTHING, NOTHING, "+0.1", "points", "(−0.4", "to", "+0.6)"],
    ]
    for figure in ("24.8 dB", "30.4 dB", "20 / 20", "1.991 MB", "1.100 MB", "61.5 s", "thing"):
        assert figure in text


def test_what_was_not_measured_is_a_dash_and_not_a_number():
    summary = Summary("net.onnx", "int8", None, 0, None, (row("FP32"),), (), ())
    line = next(x for x in rendered(console.summary_table(summary)).splitlines() if "SQNR" in x)
    assert line.split()[-1] == NOTHING


def test_a_plan_shows_shared_scales_and_skips_with_their_reasons():
    first, second, third = (Edge(name, "conv", i) for i, name in enumerate("abc"))
    plan = QuantPlan(
        (
            Placement(first, QuantSpec(QuantDtype.INT8, PerTensor()), "weighted_op", "reads INT8"),
            Placement(second, SharedSpec(first), "equal_scales", "only moves between"),
        ),
        (Skip(third, "left_in_float", "a bias stays float"),),
    )
    text = rendered(console.plan_table(plan))
    assert "int8 PerTensor" in text
    assert f"as {first}" in text
    assert "a bias stays float" in text


def test_inner_tensors_are_ranked_worst_first_below_the_outputs():
    layers = (LayerError("good", 40.0, 0.1), LayerError("bad", 3.0, 0.2))
    comparison = Comparison(8, (LayerError("logits", 30.0, 0.1),), 0.99, "top1", 0.9, 0.8, layers)
    text = rendered(console.comparison_table(comparison))
    assert text.index("logits") < text.index("bad") < text.index("good")
    assert "90.0 % -> 80.0 %" in text


def test_an_engine_table_sums_the_activation_bytes():
    view = TensorView("x", (1, 8), "Int8", 8)
    layer = EngineLayer("l", "gemm", (view,), (), (view,), ("fc",))
    text = rendered(console.engine_table(EnginePlan("rtx", "SM89", (layer, layer))))
    assert "2 kernels" in text
    assert "Int8[1, 8]" in text


def test_an_engine_table_tells_what_nodes_and_pairs_became_and_what_was_not_understood():
    plan = EnginePlan(
        "rtx",
        "SM89",
        (),
        unread=("datatype Int3",),
        nodes=(
            NodePrecision("conv1", "Conv", Precision.INT8, "k1", ("k1", "k2")),
            NodePrecision("up", "ConvTranspose", Precision.FP32, "k3", ("k3",)),
            NodePrecision("sum", "Add", Precision.FP32, "k4", ("k4",)),
        ),
        qdq=(
            QdqEdge("a", "a_Q", "a_DQ", "conv1", Passage.QUANTIZED),
            QdqEdge("b", "b_Q", "b_DQ", "up", Passage.FLOAT),
        ),
        qdq_layers=("k0",),
    )
    text = rendered(console.engine_table(plan))
    assert "nodes in INT8: 1 / 2" in text
    assert "edges behind Q/DQ: 1 quantized, 1 float" in text
    assert "float in spite of Q/DQ: b -> up" in text
    assert "only quantizes or dequantizes: k0" in text
    assert "not understood: datatype Int3" in text
    assert "k1, k2" in text


def test_a_finding_shows_its_fix():
    finding = Finding("QDQ012", Severity.ERROR, "int32 bias", node="conv1", fix="keep it float")
    text = rendered(console.findings_table([finding]))
    assert "error QDQ012 conv1: int32 bias" in text
    assert "keep it float" in text

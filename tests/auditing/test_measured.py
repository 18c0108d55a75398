"""The rules that look at evidence: the compiled plan, the comparison, the values on data."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxqat.auditing import AuditConfig, Evidence, audit
from onnxqat.auditing.evidence import Observed
from onnxqat.auditing.observe import observe
from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.calibration.histogram import TensorStatistics
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
from onnxqat.core.finding import Finding
from onnxqat.data import open_data
from onnxqat.engine import build
from onnxqat.gather import gather
from onnxqat.graph import Graph, input_specs, insert, load, prepare
from onnxqat.placement import place
from tests.support import nets
from tests.support.assets import WILD, needs_assets
from tests.support.compile import needs_compiler
from tests.support.seeded import (
    bare,
    good,
    nth,
    q_of,
    quantized_transpose,
    weight_axis,
)

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "assets_data.py"


def found(graph: Graph, evidence: Evidence, *codes: str, **choice: object) -> list[Finding]:
    config = AuditConfig(select=codes, **choice)  # type: ignore[arg-type]
    return list(audit(graph, config=config, evidence=evidence))


def spoiled(model: str, *faults: object, profile: str = "tensorrt") -> tuple[Graph, list[str]]:
    graph = good(model, profile).copy()
    return graph, [fault(graph) for fault in faults]  # type: ignore[operator]


@cache
def compiled(model: str) -> EnginePlan:
    return build(good(model, "rtx"), backend="rtx").plan


def test_a_refusal_is_a_finding_at_its_node() -> None:
    evidence = Evidence(refusal="TensorRT refuses this Conv", refused_node="Conv_0")

    (finding,) = found(good("residual"), evidence, "ENG")

    assert (finding.rule, finding.node) == ("ENG001", "Conv_0")


@needs_compiler
@pytest.mark.parametrize("model", ["residual", "unet"])
def test_the_plan_of_a_good_model_has_no_warning(model: str) -> None:
    findings = found(good(model, "rtx"), Evidence(engine=compiled(model)), "ENG")

    assert {finding.rule for finding in findings} <= {"ENG004", "ENG005", "ENG006", "ENG007"}


@needs_compiler
def test_what_the_compiler_ran_in_float_in_spite_of_q_dq_is_found() -> None:
    graph, (node,) = spoiled("residual", weight_axis("Conv", 1, at=1))
    plan = build(graph, backend="rtx").plan

    assert [x.node for x in found(graph, Evidence(engine=plan), "ENG002")] == [node]


@needs_compiler
def test_a_transposed_convolution_that_rtx_runs_in_float_is_found() -> None:
    graph, (node,) = spoiled("squeeze_excite", quantized_transpose)
    plan = build(graph, backend="rtx").plan

    assert node in [x.node for x in found(graph, Evidence(engine=plan), "ENG002")]


@needs_compiler
def test_a_convolution_in_float_between_ones_in_int8_is_found() -> None:
    graph, (node, _) = spoiled("unet", bare("Conv", 0, 1, at=1), bare("Conv", 1, at=1))
    plan = build(graph, backend="rtx").plan

    assert node in [x.node for x in found(graph, Evidence(engine=plan), "ENG004")]


def view(name: str, dtype: str, size: int) -> TensorView:
    return TensorView(name, (size,), dtype, size * (4 if dtype == "Float" else 1))


def plan_of(*layers: EngineLayer, **told: object) -> EnginePlan:
    return EnginePlan("rtx", "SM89", layers, **told)  # type: ignore[arg-type]


def layer(name: str, *, reads: TensorView, writes: TensorView, nodes: str = "") -> EngineLayer:
    return EngineLayer(name, "kgen", (reads,), (), (writes,), (nodes,))


def test_a_pool_between_dq_and_q_that_is_float_is_found() -> None:
    graph = good("inception")
    pool = nth(graph, "AveragePool")
    in_float = plan_of(nodes=(NodePrecision(pool.name, pool.op, Precision.FP32, "pool"),))
    in_int8 = plan_of(nodes=(NodePrecision(pool.name, pool.op, Precision.INT8, "pool"),))

    assert [x.node for x in found(graph, Evidence(engine=in_float), "ENG003")] == [pool.name]
    assert found(graph, Evidence(engine=in_int8), "ENG003") == []


def test_mostly_fp32_between_the_kernels_is_a_finding() -> None:
    floats = layer("k", reads=view("a", "Int8", 100), writes=view("b", "Float", 100))
    codes = layer("k", reads=view("a", "Int8", 900), writes=view("b", "Float", 100))

    (finding,) = found(good("unet"), Evidence(engine=plan_of(floats)), "ENG005")

    assert "80 %" in finding.message
    assert found(good("unet"), Evidence(engine=plan_of(codes)), "ENG005") == []


def test_a_kernel_that_only_quantizes_is_found_but_not_that_of_the_input() -> None:
    graph = good("unet")
    first, later = q_of(nth(graph, "Conv")).name, q_of(nth(graph, "Conv", 1)).name
    layers = [
        layer(name, reads=view("a", "Float", 8), writes=view("b", "Int8", 8), nodes=name)
        for name in (first, later)
    ]
    plan = plan_of(*layers, qdq_layers=(first, later))

    assert [x.node for x in found(graph, Evidence(engine=plan), "ENG006")] == [later]


def test_a_pair_whose_tensor_crosses_in_float_is_found() -> None:
    edges = [
        QdqEdge("x", "x_Q", "x_DQ", reader="Conv_0", passage=passage)
        for passage in (Passage.FLOAT, Passage.QUANTIZED)
    ]
    plan = plan_of(qdq=tuple(edges))

    (finding,) = found(good("residual"), Evidence(engine=plan), "ENG007")

    assert (finding.node, finding.tensor) == ("Conv_0", "x")


def comparison(*layers: LayerError, output_db: float = 40.0, metric: float = 0.9) -> Comparison:
    return Comparison(
        samples=8,
        outputs=(LayerError("logits", output_db, 0.1),),
        agreement=None,
        metric="top1",
        reference_metric=0.9,
        candidate_metric=metric,
        layers=layers,
    )


def test_a_metric_below_the_budget_is_an_error() -> None:
    missed, met = (Evidence(comparison=comparison(metric=metric)) for metric in (0.88, 0.895))

    (finding,) = found(good("residual"), missed, "ACC002")

    assert "2.00 points" in finding.message
    assert found(good("residual"), met, "ACC002") == []
    assert found(good("residual"), missed, "ACC002", max_metric_drop=0.05) == []


def test_a_layer_below_the_bound_is_found() -> None:
    layers = (LayerError("inner", 8.0, 1.0), LayerError("stem", 30.0, 1.0))

    findings = found(good("residual"), Evidence(comparison=comparison(*layers)), "ACC001")

    assert [(x.node, x.tensor) for x in findings] == [("/inner/Conv", "inner")]


def observed(values: np.ndarray, channels: np.ndarray | None = None) -> Observed:
    statistics = TensorStatistics()
    statistics.observe(values)
    return Observed(statistics, np.ones(4, np.float32) if channels is None else channels)


def test_saturated_values_are_found() -> None:
    graph = good("residual")
    quantizer = q_of(nth(graph, "Conv"))
    amax = 127 * quantizer.inputs[1].values
    rare, often = np.full(1000, amax / 2, np.float32), np.full(1000, amax / 2, np.float32)
    rare[:5], often[:50] = 2 * amax, 2 * amax

    def rules(values: np.ndarray) -> list[str | None]:
        evidence = Evidence(observed={quantizer.inputs[0].name: observed(values)})
        return [finding.node for finding in found(graph, evidence, "CAL008")]

    assert rules(often) == [quantizer.name]
    assert rules(rare) == []


def test_an_unused_range_is_found() -> None:
    graph = good("residual")
    quantizer = q_of(nth(graph, "Conv"))
    amax = 127 * quantizer.inputs[1].values

    def rules(share: float) -> list[str | None]:
        values = np.full(100, amax * share, np.float32)
        evidence = Evidence(observed={quantizer.inputs[0].name: observed(values)})
        return [finding.node for finding in found(graph, evidence, "CAL009")]

    assert rules(0.2) == [quantizer.name]
    assert rules(0.3) == []


def test_outlier_channels_before_a_depthwise_convolution_are_found() -> None:
    graph = good("residual").copy()
    conv = nth(graph, "Conv", 1)
    conv.attrs["group"] = 8
    quantizer = q_of(conv)
    outlier, equal = np.ones(8, np.float32), np.ones(8, np.float32)
    outlier[0] = 64

    def rules(channels: np.ndarray) -> list[str | None]:
        seen = observed(np.ones(8, np.float32), channels)
        evidence = Evidence(observed={quantizer.inputs[0].name: seen})
        return [finding.node for finding in found(graph, evidence, "CAL010")]

    assert rules(outlier) == [quantizer.name]
    assert rules(equal) == []


def test_the_cause_of_noise_is_the_tensor_that_8_bits_cannot_hold() -> None:
    graph = good("residual")
    conv = nth(graph, "Conv", 1)
    quantizer = q_of(conv)
    tensor, scale = quantizer.inputs[0].name, float(quantizer.inputs[1].values)
    layers = (LayerError(tensor, 30.0, 1.0), LayerError(conv.outputs[0].name, 12.0, 1.0))
    heavy_tail = np.abs(np.random.default_rng(0).standard_normal(100_000)).astype(np.float32)
    heavy_tail *= np.float32(scale)  # one step: rounding leaves little
    heavy_tail[0] = 100 * scale
    evidence = Evidence(
        comparison=comparison(*layers, output_db=12.0), observed={tensor: observed(heavy_tail)}
    )

    (finding,) = found(graph, evidence, "ACC003")

    assert (finding.node, finding.tensor) == (conv.name, tensor)
    assert "root mean square" in finding.message
    fine = replace(evidence, comparison=comparison(*layers, output_db=30.0))
    assert found(graph, fine, "ACC003") == []


def test_channels_of_very_different_size_are_told_as_a_cause() -> None:
    graph = good("residual")
    conv = nth(graph, "Conv", 1)
    tensor = q_of(conv).inputs[0].name
    scale = float(q_of(conv).inputs[1].values)
    layers = (LayerError(tensor, 30.0, 1.0), LayerError(conv.outputs[0].name, 12.0, 1.0))
    even = np.linspace(-127 * scale, 127 * scale, 1000, dtype=np.float32)
    channels = np.array([100, 1, 1, 1, 1, 1, 1, 1], np.float32)
    evidence = Evidence(
        comparison=comparison(*layers, output_db=12.0), observed={tensor: observed(even, channels)}
    )

    (finding,) = found(graph, evidence, "ACC003")

    assert "100 times the median one" in finding.message


def test_what_is_observed_are_the_values_that_each_q_reads(tmp_path: Path) -> None:
    graph = good("residual")
    images = nets.images(6)
    np.savez(tmp_path / "data.npz", image=images)
    data = open_data(str(tmp_path / "data.npz"), input_specs(graph))

    seen = observe(graph, data, samples=6, batch_size=4)

    assert seen["image"].statistics.values == images.size
    np.testing.assert_allclose(seen["image"].channel_amax, np.abs(images).max(axis=(0, 2, 3)))
    assert "inner_out" not in seen
    assert {q_of(node).inputs[0].name for node in graph.nodes if node.op == "Conv"} <= set(seen)


def test_depthwise_kernels_that_take_differences_are_told_as_a_cause() -> None:
    graph = good("residual").copy()
    conv = nth(graph, "Conv", 1)
    conv.attrs["group"] = 8
    edges = np.zeros((8, 1, 3, 3), np.float32)
    edges[:, 0, 1] = (-1, 0.1, 1)
    q_of(conv, 1).inputs[0] = gs.Constant("edges", edges)
    tensor = q_of(conv).inputs[0].name
    layers = (LayerError(tensor, 30.0, 1.0), LayerError(conv.outputs[0].name, 12.0, 1.0))

    (finding,) = found(graph, Evidence(comparison=comparison(*layers, output_db=12.0)), "ACC003")

    assert "take differences (their sum is 5 %" in finding.message


@needs_assets
@pytest.mark.slow
def test_why_int8_does_not_hold_fastestdet_is_told(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="the [vision] extra is not installed")
    graph = prepare(load(WILD / "fastestdet_pytorch111_opset11.onnx"))
    data = open_data(f"{SCRIPT}:fastestdet", input_specs(graph))
    config = CalibrationConfig(samples=16)
    plan = place(graph)
    quantized = insert(graph, plan, calibrate(graph, plan, data, config=config))
    evidence = gather(quantized, AuditConfig(), data=data, reference=graph, samples=16)

    findings = found(quantized, evidence, "ACC003")
    causes = {str(finding.tensor): finding.message for finding in findings}

    assert evidence.comparison is not None
    assert evidence.comparison.sqnr_db < 16
    assert "root mean square" in causes["input.508"]  # the Concat of the pooled pyramid
    assert sum("take differences" in message for message in causes.values()) >= 3

"""What the TensorRT compiler makes of the plans: the referee of all rules.

Scales do not change what is compiled, as long as those that a plan keeps apart are different: they
are made up here. Bytes are of the activations that all kernels read and write, batch 1, for SM89.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import pytest

from onnxqat.core.errors import BuildError
from onnxqat.core.plan import Placement, QuantPlan
from onnxqat.core.precision import Precision, node_precisions
from onnxqat.core.spec import PerTensor, QuantDtype, QuantSpec
from onnxqat.engine import Built, build, heavy_nodes
from onnxqat.graph import Graph, as_graph, insert, load, prepare
from onnxqat.placement import PlacementConfig, place
from tests.support import networks
from tests.support.assets import MODELS, WILD, needs_assets
from tests.support.compile import needs_compiler
from tests.support.placement import Weights, graph_of, made_up

pytestmark = needs_compiler

INT8 = QuantSpec(QuantDtype.INT8, PerTensor())
RTX = PlacementConfig(profile="rtx")


DYNAMIC = {"silero": {"input": (1, 576), "state": (2, 1, 128)}}
"""Shapes for models of which more than the batch is dynamic."""


def compiled(
    graph: Graph, plan: QuantPlan, shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})
) -> tuple[Built, dict[str, Precision]]:
    """The engine of a plan, and the precision that each Conv, Gemm and MatMul got."""
    quantized = insert(graph, plan, made_up(graph, plan))
    built = build(quantized, backend="rtx", shapes=shapes)
    precisions = node_precisions(built.plan, heavy_nodes(quantized))
    return built, {x.node: x.precision for x in precisions}


def megabytes(graph: Graph, plan: QuantPlan) -> float:
    """The activations that the engine of a plan moves, in MB."""
    return compiled(graph, plan)[0].plan.activation_bytes / 1e6


def unshared(plan: QuantPlan) -> QuantPlan:
    """The plan with a scale of its own for each tensor."""
    return QuantPlan(tuple(replace(x, spec=plan.spec_of(x.edge)) for x in plan.placements))


@needs_assets
@pytest.mark.parametrize(
    ("model", "count", "bound"),
    [
        ("cifar10_resnet20", 20, 1.992),  # the best peer: 1.991
        ("cifar10_resnet20_bn", 20, 1.992),
        ("kwt1_speech_commands", 98, 8.702),  # the best peer: 8.70, with 74 or 98 in INT8
        ("mobilenet_v1_0.75_224_bn", 28, 52.6),
    ],
)
def test_all_of_a_pretrained_model_is_compiled_to_int8(
    model: str, count: int, bound: float
) -> None:
    graph = prepare(load(MODELS / f"{model}.onnx"))
    built, precisions = compiled(graph, place(graph))
    assert list(precisions.values()) == [Precision.INT8] * count
    assert built.plan.activation_bytes / 1e6 <= bound


@needs_assets
def test_four_bit_weights_in_an_int8_container_are_compiled_to_int8() -> None:
    graph = prepare(load(MODELS / "cifar10_resnet20.onnx"))
    precisions = compiled(graph, place(graph, config=PlacementConfig(format="w4a8")))[1]
    assert list(precisions.values()) == [Precision.INT8] * 20


FP8 = PlacementConfig(format="fp8", profile="rtx")


@needs_assets
@pytest.mark.parametrize(
    ("model", "count", "bound"),
    [
        ("cifar10_resnet20_bn", 20, 2.017),  # 1.991 in INT8, which has an AveragePool
        ("kwt1_speech_commands", 98, 8.702),
        ("mobilenet_v1_0.75_224_bn", 28, 52.6),
    ],
)
def test_all_of_a_pretrained_model_is_compiled_to_fp8(model: str, count: int, bound: float) -> None:
    graph = prepare(load(MODELS / f"{model}.onnx"), min_opset=FP8.min_opset)
    built, precisions = compiled(graph, place(graph, config=FP8))
    assert list(precisions.values()) == [Precision.FP8] * count
    assert built.plan.activation_bytes / 1e6 <= bound


@pytest.mark.parametrize(
    ("network", "float_convs", "bound"),
    [
        (networks.resnet18, 1, 27.67),  # the stem has 49 taps
        (networks.inception, 0, 7.79),
        (networks.vit_classifier, 1, 2.64),  # patches of more than 32 pixels
        (networks.yolo, 0, 1.93),
        (networks.densenet, 0, 3.01),
        (networks.unet, 0, 3.94),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_the_fp8_plan_quantizes_is_compiled_to_fp8(
    network: Callable[[], onnx.ModelProto], float_convs: int, bound: float
) -> None:
    graph = prepare(as_graph(network()), min_opset=FP8.min_opset)
    plan = place(graph, config=FP8)
    built, precisions = compiled(graph, plan)
    placed = {x.edge.node for x in plan.placements} & precisions.keys()
    assert {precisions[node] for node in placed} == {Precision.FP8}
    assert len(precisions) - len(placed) == float_convs
    assert built.plan.activation_bytes / 1e6 <= bound


@pytest.mark.parametrize(("taps", "precision"), [((4, 8), "FP8"), ((3, 11), "FP32")])
def test_fp8_convs_of_more_than_32_taps_run_in_float(taps: tuple[int, int], precision: str) -> None:
    text = "g (float[1, 8, 40, 40] x) => (float[n, c, h, w] y) { y = Conv (x, w) }"
    graph = prepare(graph_of(text, {"w": (8, 8, *taps)}), min_opset=FP8.min_opset)
    forced = QuantPlan(
        tuple(
            replace(x, spec=QuantSpec(QuantDtype.FP8, plan_spec.granularity))
            for plan in [place(graph)]
            for x in plan.placements
            for plan_spec in [plan.spec_of(x.edge)]
        )
    )
    assert compiled(graph, forced)[1] == {"Conv_y": Precision(precision)}


def test_4_bit_activations_are_refused_with_a_reason() -> None:
    config = PlacementConfig(format="w4a4")
    text = "g (float[1, 8, 8, 8] x) => (float[n, c, h, w] y) { y = Conv (x, w) }"
    graph = prepare(graph_of(text), min_opset=config.min_opset)
    with pytest.raises(BuildError, match="simulation"):
        compiled(graph, place(graph, config=config))


@needs_assets
@pytest.mark.parametrize(
    "model",
    [
        path
        for path in sorted(WILD.glob("*.onnx"))
        if not path.stem.startswith("dtln")  # the compiler refuses its float file, for the LSTM
    ],
    ids=lambda path: path.stem,
)
def test_what_the_plan_quantizes_in_other_peoples_files_is_compiled_to_int8(model: Path) -> None:
    graph = prepare(load(model))
    plan = place(graph)
    precisions = compiled(graph, plan, DYNAMIC.get(model.stem.partition("_")[0], {}))[1]
    wanted = {x.edge.node for x in plan.placements} & precisions.keys()
    assert wanted
    assert {precisions[node] for node in wanted} == {Precision.INT8}


@pytest.mark.parametrize(
    ("network", "count", "bound"),
    [
        (networks.resnet18, 21, 26.79),  # peers: 26.78
        (networks.mobilenet_v2, 53, 90.34),  # peers: 90.34
    ],
    ids=["resnet18", "mobilenet_v2"],
)
def test_all_of_a_well_known_architecture_is_compiled_to_int8(
    network: Callable[[], onnx.ModelProto], count: int, bound: float
) -> None:
    graph = prepare(as_graph(network()))
    built, precisions = compiled(graph, place(graph))
    assert list(precisions.values()) == [Precision.INT8] * count
    assert built.plan.activation_bytes / 1e6 <= bound


WEIGHT_SHAPES: Weights = {
    "w1": (8, 8, 3), "deep": (8, 1, 3, 3), "grouped": (8, 4, 3, 3), "w": (8, 16), "wt": (16, 8),
    "stack": (2, 8, 16), "left": (16, 8), "leftt": (8, 16), "leftstack": (2, 16, 8), "vector": (8,),
    "one": (8, 1),
}  # fmt: skip

ALL_KINDS = """
g (float[1,8,16] x1, float[1,8,16,16] x2, float[4,8] rows, float[8,4] columns, float[2,4,8] many,
   float[2,8,4] turned) =>
(float[a] y0, float[a] y1, float[a] y2, float[a] y3, float[a] y4, float[a] y5, float[a] y6,
 float[a] y7, float[a] y8, float[a] y9, float[a] y10, float[a] y11, float[a] y12) {
    y0 = Conv (x1, w1)
    y1 = Conv <group = 8> (x2, deep)
    y2 = Conv <group = 2> (x2, grouped)
    y3 = Gemm (rows, w)
    y4 = Gemm <transB = 1> (rows, wt)
    y5 = Gemm <transA = 1> (columns, w)
    y6 = Gemm (left, columns)
    y7 = Gemm <transA = 1> (leftt, columns)
    y8 = MatMul (many, w)
    y9 = MatMul (many, stack)
    y10 = MatMul (left, turned)
    y11 = MatMul (leftstack, turned)
    y12 = MatMul (rows, one)
}"""


def test_weights_of_all_kinds_on_either_side_are_compiled_to_int8() -> None:
    ranks = ["a, b, c", *["a, b, c, d"] * 2, *["a, b"] * 5, *["a, b, c"] * 4, "a, b"]
    text = ALL_KINDS
    for number, rank in enumerate(ranks):
        text = text.replace(f"float[a] y{number},", f"float[{rank}] y{number},")
        text = text.replace(f"float[a] y{number})", f"float[{rank}] y{number})")
    graph = graph_of(text, WEIGHT_SHAPES)
    precisions = compiled(graph, place(graph))[1]
    assert precisions == dict.fromkeys(precisions, Precision.INT8)
    assert len(precisions) == len(ranks)


TRANSPOSED = """g (float[1, 8, 16, 16] x) => (float[1, 8, 32, 32] y) {
    y = ConvTranspose <strides = [2,2]> (x, w)
}"""


def test_rtx_runs_a_transposed_conv_in_float_so_that_its_profile_leaves_it_out() -> None:
    graph = graph_of(TRANSPOSED, {"w": (8, 8, 2, 2)})
    assert compiled(graph, place(graph))[1] == {"ConvTranspose_y": Precision.FP32}
    assert not place(graph, config=RTX).placements


def test_attention_of_several_heads_is_one_kernel_that_int8_scores_would_break() -> None:
    graph = prepare(as_graph(networks.vit(tokens=98, heads=2, head_size=32)))
    built, precisions = compiled(graph, place(graph))
    assert list(precisions.values()) == [Precision.INT8] * 8
    assert any("_mha_" in layer.name for layer in built.plan.layers)
    broken = place(graph, config=PlacementConfig(attention_scores=True))
    assert built.plan.activation_bytes / 1e6 < megabytes(graph, broken)


def test_int8_scores_save_bytes_where_a_single_head_is_not_fused() -> None:
    graph = prepare(as_graph(networks.vit(tokens=98, heads=1, head_size=32)))
    stored = place(graph, config=PlacementConfig(attention_scores=False))
    assert megabytes(graph, place(graph)) < megabytes(graph, stored)


@pytest.mark.parametrize(("tokens", "head_size"), [(513, 64), (98, 80)], ids=["long", "wide"])
def test_attention_too_large_for_one_kernel_stores_its_scores_in_int8(
    tokens: int, head_size: int
) -> None:
    network = networks.vit(tokens=tokens, heads=2, head_size=head_size)
    graph = prepare(as_graph(network))
    built = compiled(graph, place(graph, config=RTX))[0].plan
    assert not any("_mha_" in layer.name for layer in built.layers)
    stored = place(graph, config=replace(RTX, attention_scores=False))
    assert built.activation_bytes / 1e6 < 0.95 * megabytes(graph, stored)


MOVES = {
    "Gather": "Gather <axis = 1> (a, even)",
    "MaxPool": "MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)",
    "Resize": 'Resize <mode = "nearest"> (a, none, twice)',
    "Slice": "Slice (a, start, end)",
    "SpaceToDepth": "SpaceToDepth <blocksize = 2> (a)",
    "Tile": "Tile (a, once)",
    "Transpose": "Transpose <perm = [0,1,3,2]> (a)",
}
NO_MOVES = {
    "Resize": 'Resize <mode = "linear"> (a, none, twice)',
    "Pad": "Pad (a, rim, one)",
    "LeakyRelu": "LeakyRelu (a)",
    "Sigmoid": "Sigmoid (a)",
}
STEPS = {"Gather": "Gath", "MaxPool": "pooling", "Pad": "Repl", "Resize": "Resi", "Slice": "Slic",
         "SpaceToDepth": "Resh", "Tile": "Repl", "Transpose": "Tran", "LeakyRelu": "Max",
         "Sigmoid": "Sigm"}  # fmt: skip
"""How the names of generated kernels tell an op; a Pad by 0 becomes the next Conv's own."""


def steps_behind(text: str) -> str:
    """The names of the kernels between two Convs: their steps, in order."""
    body = f"""g (float[1, 16, 8, 8] x) => (float[n, c, h, w] y) {{
        a = Conv <pads = [1,1,1,1]> (x, w) m = {text} y = Conv (m, v) }}"""
    values: dict[str, Any] = {
        "even": np.arange(0, 16, 2), "rim": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "start": np.array([0, 0, 1, 1]), "end": np.array([1, 16, 7, 7]), "one": np.float32(1),
        "once": np.array([1, 1, 2, 1]), "twice": np.float32([1, 1, 2, 2]),
        "none": np.float32([]),
    }  # fmt: skip
    used = {name: value for name, value in values.items() if name in text}
    channels = {"SpaceToDepth": 64, "Gather": 8}.get(text.split(maxsplit=1)[0], 16)
    graph = prepare(graph_of(body, {"w": (16, 16, 3, 3), "v": (8, channels, 1, 1)}, **used))
    layers = compiled(graph, place(graph, config=RTX))[0].plan.kernels
    names = [x.name for x in layers]
    first, last = (
        next(i for i, n in enumerate(names) if n.startswith(c)) for c in ("Conv_a", "Conv_y")
    )
    return " ".join(names[first + 1 : last])


@pytest.mark.slow
@pytest.mark.parametrize("op", MOVES)
def test_a_q_moves_back_over_what_only_moves_values(op: str) -> None:
    steps = steps_behind(MOVES[op])
    assert steps.index("RounCast") < steps.index(STEPS[op], steps.index("RounCast"))


@pytest.mark.slow
@pytest.mark.parametrize("op", NO_MOVES)
def test_a_q_stays_behind_what_computes_values(op: str) -> None:
    steps = steps_behind(NO_MOVES[op])
    assert steps.index(STEPS[op]) < steps.index("RounCast")


def test_int8_on_the_stream_of_a_pre_norm_transformer_would_save_no_byte() -> None:
    graph = prepare(as_graph(networks.vit(blocks=2, tokens=98, heads=2, head_size=32)))
    plan = place(graph)
    stream = [x.edge for x in plan.skips if "stream between MatMuls" in x.reason]
    assert stream
    tempting = tuple(Placement(edge, INT8, "tempting", "it is a residual") for edge in stream)
    assert megabytes(graph, plan) == megabytes(graph, QuantPlan(plan.placements + tempting))


def dropped(plan: QuantPlan, rule: str) -> QuantPlan:
    """The plan without what a rule placed, each tensor with a scale of its own."""
    return QuantPlan(tuple(x for x in unshared(plan).placements if x.rule != rule))


@pytest.mark.parametrize(
    ("network", "change"),
    [
        (networks.unet, lambda plan: dropped(plan, "stored_once")),
        (networks.inception, lambda plan: dropped(plan, "pool")),
        (networks.densenet, lambda plan: dropped(plan, "preactivation")),
    ],
    ids=["INT8 skips in a U-Net", "INT8 pools in Inception", "INT8 norms in DenseNet"],
)
def test_a_rule_saves_a_seventh_of_the_bytes_where_it_is_needed(
    network: Callable[[], onnx.ModelProto], change: Callable[[QuantPlan], QuantPlan]
) -> None:
    graph = prepare(as_graph(network()))
    plan = place(graph)
    assert megabytes(graph, plan) < 6 / 7 * megabytes(graph, change(plan))


@pytest.mark.parametrize(("cell", "best"), [("LSTM", 0.28907), ("GRU", 0.28510)])
def test_no_tool_moves_fewer_bytes_around_a_recurrence(cell: str, best: float) -> None:
    graph = prepare(as_graph(networks.crnn(cell)))  # the best peer: ONNX Runtime
    assert megabytes(graph, place(graph, config=RTX)) <= best < 0.8 * megabytes(graph, place(graph))


@needs_assets
def test_no_tool_moves_fewer_bytes_in_a_shufflenet() -> None:
    graph = prepare(load(WILD / "fastestdet_pytorch111_opset11.onnx"))
    plan = place(graph)
    assert megabytes(graph, plan) <= 43.514  # the best peer: ONNX Runtime
    assert megabytes(graph, dropped(plan, "stored_whole")) > 47


def test_a_vector_left_in_float_saves_bytes_of_activations_and_costs_more_of_weights() -> None:
    graph = prepare(as_graph(networks.resnet18(64)))
    left = place(graph, config=replace(RTX, narrow_products="float"))
    both = [compiled(graph, x)[0].plan for x in (place(graph, config=RTX), left)]
    assert both[1].activation_bytes - both[0].activation_bytes == -4928
    assert both[1].constant_bytes - both[0].constant_bytes > 1_500_000


@needs_assets
def test_float_skips_would_cost_resnet20_a_quarter_more_bytes() -> None:
    graph = prepare(load(MODELS / "cifar10_resnet20.onnx"))
    without_skips = place(graph, config=PlacementConfig(exclude_ops=("Add",)))
    assert megabytes(graph, without_skips) > 1.25 * megabytes(graph, place(graph))

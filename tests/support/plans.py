"""A graph with every kind of edge that is quantized, and hypothesis strategies for its plans."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx_graphsurgeon as gs
from hypothesis import strategies as st

from onnxqat.core.calibration import Calibration, TensorRange
from onnxqat.core.plan import Edge, Placement, QuantPlan, Skip
from onnxqat.core.spec import PerChannel, PerTensor, QuantDtype, QuantSpec, SharedSpec
from onnxqat.graph import Graph, as_graph
from onnxqat.graph.query import is_float
from tests.support.onnx_text import model_of

NET = """
net (float[n, 3, 8, 8] x, int64[2] shape) => (float[n, 2] logits, float[n, 4, 8, 8] tap)
{
    a = Conv <pads = [1, 1, 1, 1]> (x, conv_w, conv_b)
    tap = Relu (a)
    b = Conv (tap, shared_w)
    c = Conv (b, shared_w)
    sum = Add (c, b)
    both = Concat <axis = 1> (sum, tap, c)
    up = ConvTranspose (both, up_w)
    pooled = GlobalAveragePool (up)
    flat = Reshape (pooled, shape)
    wide = MatMul (flat, matmul_w)
    logits = Gemm <transB = 1> (wide, gemm_w)
}
"""
SHAPES = {
    "conv_w": (4, 3, 3, 3), "conv_b": (4,), "shared_w": (4, 4, 1, 1), "up_w": (12, 1, 2, 2),
    "matmul_w": (1, 5), "gemm_w": (2, 5),
}  # fmt: skip


def net(seed: int = 0) -> Graph:
    """The graph, with weights drawn by seed."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.standard_normal(s).astype(np.float32) for name, s in SHAPES.items()}
    graph = as_graph(model_of(NET, opset=21, ir=10, **weights))  # of which INT4 is
    for tensor in (tensor for node in graph.nodes for tensor in (*node.inputs, *node.outputs)):
        if isinstance(tensor, gs.Variable) and tensor.name != "shape":
            tensor.dtype = np.dtype(np.float32)
    return graph


def edges(graph: Graph) -> list[tuple[Edge, gs.Tensor, gs.Node]]:
    """Every edge through which a node reads a float tensor."""
    return sorted(
        (
            (Edge(tensor.name, node.name, i), tensor, node)
            for node in graph.nodes
            for i, tensor in enumerate(node.inputs)
            if is_float(tensor)
        ),
        key=lambda item: item[0],
    )


AMAX = st.floats(1e-30, 1e30, allow_subnormal=False)


@st.composite
def plans(draw: st.DrawFn, graph: Graph) -> tuple[QuantPlan, Calibration]:
    """A plan that fits the graph, with skips and shared scales, and ranges for it."""
    found = edges(graph)
    tensors = {tensor.name: tensor for _, tensor, _ in found}
    specs = {name: draw(_specs(tensor)) for name, tensor in tensors.items()}
    stored = {name: draw(st.booleans()) for name, s in specs.items() if not s.dtype.fills_container}
    placements, skips = {}, []
    for (
        edge,
        _,
        _,
    ) in found:  # a tensor that is stored as codes has all of its edges placed, or none
        text = draw(st.text(max_size=5))
        if stored.get(edge.tensor, draw(st.booleans())):
            placements[edge] = Placement(edge, specs[edge.tensor], "P1", text)
        else:
            skips.append(Skip(edge, "SKIP", text))
    ranges = {
        name: draw(_amax(tensors[name], specs[name]))
        for name in sorted({edge.tensor for edge in placements})
    }
    _share(draw, placements, ranges)
    plan = QuantPlan(tuple(placements[edge] for edge in sorted(placements)), tuple(skips))
    entries = [
        TensorRange(name, amax, draw(st.sampled_from(["max", "mse"])), draw(st.integers(0, 99)))
        for name, amax in sorted(ranges.items())
    ]
    return plan, Calibration(tuple(entries))


def _specs(tensor: gs.Tensor) -> st.SearchStrategy[QuantSpec]:
    if not isinstance(tensor, gs.Constant):
        dtypes = st.sampled_from([dtype for dtype in QuantDtype if dtype.fills_container])
        return st.builds(QuantSpec, dtypes, st.just(PerTensor()))
    axes = st.integers(0, len(tensor.shape) - 1)
    granularity = st.one_of(st.just(PerTensor()), st.builds(PerChannel, axes))
    return st.builds(QuantSpec, st.sampled_from(QuantDtype), granularity)


def _amax(tensor: gs.Tensor, spec: QuantSpec) -> st.SearchStrategy[tuple[float, ...]]:
    count = tensor.shape[spec.granularity.axis] if isinstance(spec.granularity, PerChannel) else 1
    return st.lists(AMAX, min_size=count, max_size=count).map(tuple)


def _share(
    draw: st.DrawFn, placements: dict[Edge, Placement], ranges: dict[str, tuple[float, ...]]
) -> None:
    """Let some activations follow others, directly or in a chain; their ranges become equal."""
    activations = [edge for edge in placements if edge.tensor not in SHAPES]
    names = sorted({edge.tensor for edge in activations})
    tensors = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    chain = [min(e for e in activations if e.tensor == tensor) for tensor in tensors]
    for leader, follower in pairwise(chain):
        ranges[follower.tensor] = ranges[leader.tensor]
        _follow(placements, [e for e in activations if e.tensor == follower.tensor], leader)


def _follow(placements: dict[Edge, Placement], followers: Sequence[Edge], leader: Edge) -> None:
    for edge in followers:
        old = placements[edge]
        placements[edge] = Placement(edge, SharedSpec(leader), old.rule, old.reason)

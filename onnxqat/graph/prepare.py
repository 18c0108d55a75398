"""Bring a graph into the form that every later stage works on, and say what that took."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_graphsurgeon as gs

from onnxqat.graph.change import Change
from onnxqat.graph.files import as_graph
from onnxqat.graph.graph import Graph
from onnxqat.graph.infer import infer_shapes
from onnxqat.graph.passes.affine import fold_affine
from onnxqat.graph.passes.branches import inline_branches
from onnxqat.graph.passes.constants import fold_constants, lower_constants
from onnxqat.graph.passes.functions import inline_functions, inline_operators
from onnxqat.graph.passes.identity import drop_identities
from onnxqat.graph.passes.names import drop_initializer_inputs, name_nodes
from onnxqat.graph.passes.opset import raise_opset
from onnxqat.graph.passes.pools import clip_windows, count_padding
from onnxqat.graph.passes.shapes import fold_shapes
from onnxqat.graph.passes.unused import drop_training, drop_unused

Pass = Callable[[Graph], Iterator[Change]]

FOLDS: tuple[Pass, ...] = (
    fold_constants,
    fold_shapes,
    inline_branches,
    drop_identities,
    drop_unused,
)
"""Repeated until none of them finds anything: each makes work for the others."""

MIN_OPSET = 13
"""The first opset with per-channel QuantizeLinear (TENSORRT.md, L14)."""


def prepare(
    graph: gs.Graph,
    *,
    min_opset: int = MIN_OPSET,
    on_change: Callable[[Change], None] | None = None,
) -> Graph:
    """A graph that computes the same, in the form that the later stages need.

    Functions of the model's own, and Attention, become their nodes; constants are folded, also
    shapes that the file declares; BatchNormalization and constant biases are folded into the layer
    before; pools are written in the form that compiles, and to INT8; Identity, inference-time
    Dropout and unused nodes are gone; nodes have unique names; tensors have types and shapes as far
    as ONNX can infer them. Graph inputs and outputs keep names, types and dynamic dimensions, Q/DQ
    pairs stay, and the opset is raised to `min_opset` where it is lower, never lowered.

    Args:
        graph: Any graph; it is not changed.
        min_opset: The opset that the format needs.
        on_change: Called with each change that was made.

    Raises:
        ModelError: The opset cannot be raised: it is too old, or a node has no equal in the new
            one. The message names the node.
    """
    report = on_change if on_change is not None else _ignore
    prepared = inline_operators(inline_functions(as_graph(graph), report), report)
    for change in _changes(prepared, min_opset):
        report(change)
    return prepared


def _ignore(change: Change) -> None:
    """Where nobody asked for the changes."""


def _changes(graph: Graph, min_opset: int) -> Iterator[Change]:
    yield from drop_training(graph)
    yield from drop_initializer_inputs(graph)
    yield from name_nodes(graph)
    yield from lower_constants(graph)
    if graph.opset < min_opset:  # shapes say what an old Softmax is today
        yield from _repeat((fold_shapes,), graph)
        yield from raise_opset(graph, min_opset)
    yield from _repeat(FOLDS, graph)
    yield from fold_affine(graph)
    yield from clip_windows(graph)
    yield from count_padding(graph)
    yield from drop_unused(graph)
    yield from name_nodes(graph)


def _repeat(passes: tuple[Pass, ...], graph: Graph) -> Iterator[Change]:
    """Run passes, with fresh shapes, until none of them finds anything."""
    while True:
        for tensor in infer_shapes(graph):
            detail = f"the file declares another shape for '{tensor}' than its node makes"
            yield Change("correct shape", tensor, detail)
        changes = [change for step in passes for change in step(graph)]
        yield from changes
        if not changes:
            return

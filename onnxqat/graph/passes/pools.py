"""Average pools without padding: written in the one of two equal ways that compiles to INT8."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxqat.graph.change import Change
from onnxqat.graph.graph import Graph, all_graphs, is_onnx


def count_padding(graph: Graph) -> Iterator[Change]:
    """An AveragePool that pads nothing gets `count_include_pad` = 1, which means the same.

    TensorRT for RTX 1.7 runs such a pool in INT8 between a DQ and a Q with the attribute, and in
    float without it: a Conv, a 2x2 pool and a Conv move 61 kB and 94 kB.
    """
    for inner in all_graphs(graph):
        for node in inner.nodes:
            if _pads_nothing(node) and not node.attrs.get("count_include_pad", 0):
                node.attrs["count_include_pad"] = 1
                yield Change("count padding", node.name, "it pads nothing, so that it may count it")


def _pads_nothing(node: gs.Node) -> bool:
    """Whether every window lies within the input; one rounded up may reach beyond."""
    return (
        is_onnx(node)
        and node.op == "AveragePool"
        and node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and not any(node.attrs.get("pads", ()))
        and not node.attrs.get("ceil_mode", 0)
    )

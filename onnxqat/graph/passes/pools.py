"""Pools, written in the one of several equal ways that TensorRT compiles, and to INT8."""

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


def clip_windows(graph: Graph) -> Iterator[Change]:
    """A window that is larger than the whole input gets the input's size, which means the same.

    Exporters of EfficientNet write its last pool so, with a window as large as there are channels;
    TensorRT refuses one of 100,000 values.
    """
    for inner in all_graphs(graph):
        for node in inner.nodes:
            if is_onnx(node) and node.op in ("AveragePool", "MaxPool"):
                window, clipped = list(node.attrs["kernel_shape"]), clipped_window(node)
                if clipped != window:
                    node.attrs["kernel_shape"] = clipped
                    detail = f"the window {window} reaches beyond its input, and is {clipped} now"
                    yield Change("clip window", node.name, detail)


def clipped_window(node: gs.Node) -> list[int]:
    """A pool's window without what lies beyond its input; whole where that is not known."""
    window = list(node.attrs["kernel_shape"])
    shape = node.inputs[0].shape
    is_dilated = any(step != 1 for step in node.attrs.get("dilations", ()))
    if shape is None or is_dilated or not _has_no_padding(node) or not node.attrs.get("ceil_mode"):
        return window
    strides = node.attrs.get("strides", [1] * len(window))
    return [
        size if isinstance(size, int) and 0 < length - size < stride else length
        for length, size, stride in zip(window, shape[-len(window) :], strides, strict=True)
    ]


def _pads_nothing(node: gs.Node) -> bool:
    """Whether every window lies within the input; one rounded up may reach beyond."""
    return (
        is_onnx(node)
        and node.op == "AveragePool"
        and _has_no_padding(node)
        and not node.attrs.get("ceil_mode", 0)
    )


def _has_no_padding(node: gs.Node) -> bool:
    return node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(
        node.attrs.get("pads", ())
    )

"""Layers that are narrow: what INT8 saves in them may be less than what it costs (P15, P16)."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxqat.placement.families import CONVOLUTIONS

LEAST_CHANNELS = 16
"""Channels, rows or columns that fill the tiles of an INT8 matrix multiplication; ModelOpt's bound
for Conv, Gemm and MatMul."""


def why_narrow(node: gs.Node, index: int) -> str | None:
    """What is narrow about a layer with weights at input `index`; None if nothing is.

    A size that the file leaves open is taken for a large one.
    """
    if node.op in CONVOLUTIONS:
        sizes = _channels(node)
    else:
        rows, inner, columns = _product(node)
        if rows == 1 or columns == 1:
            return "multiplies a vector"
        weights = {"columns": columns} if index == 1 else {"rows": rows}
        sizes = {"inputs": inner, **weights}
    small = [f"{n} {what}" for what, n in sizes.items() if n is not None and n < LEAST_CHANNELS]
    return f"has {' and '.join(small)}, fewer than {LEAST_CHANNELS}" if small else None


def _channels(node: gs.Node) -> dict[str, int | None]:
    """Of all groups together, as the activations have them."""
    first, second = (int(size) for size in node.inputs[1].shape[:2])
    groups = int(node.attrs.get("group", 1))
    inner, outer = (second * groups, first) if node.op == "Conv" else (first, second * groups)
    return {"input channels": inner, "output channels": outer}


def _product(node: gs.Node) -> tuple[int | None, int | None, int | None]:
    """M, K and N of the matrices [M, K] and [K, N]; None where the file leaves one open."""
    (rows, inner), (depth, columns) = (_matrix(node, index) for index in (0, 1))
    return rows, inner if inner is not None else depth, columns


def _matrix(node: gs.Node, index: int) -> tuple[int | None, int | None]:
    """The last two sizes of an operand as they are multiplied; a vector is a row, or a column."""
    shape = node.inputs[index].shape
    if shape is None or not len(shape):
        return None, None
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape[-2:]]
    if len(sizes) == 1:
        return (1, sizes[0]) if index == 0 else (sizes[0], 1)
    is_transposed = node.op == "Gemm" and node.attrs.get(("transA", "transB")[index], 0)
    return (sizes[1], sizes[0]) if is_transposed else (sizes[0], sizes[1])

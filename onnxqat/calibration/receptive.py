"""What a node multiplies its weights with: random rows of its input.

A Conv, Gemm or MatMul is a product of rows with a weight matrix; for a Conv a row is what the
kernel sees at one place. A few rows are enough to tell how much an error in the weights matters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Rows = NDArray[np.float32]
"""[rows, groups, values of a row]; one group but for a grouped Conv."""


def sample_rows(
    node: gs.Node, x: NDArray[np.float32], count: int, generator: np.random.Generator
) -> Rows:
    """`count` random rows that the node multiplies its weights with.

    Args:
        node: A Conv, Gemm or MatMul with weights as its second input.
        x: Its first input.
        count: How many rows.
        generator: What chooses them.
    """
    if node.op == "Conv":
        return _fields(node, x, count, generator)
    matrix = x.T if node.attrs.get("transA", 0) else x
    rows = matrix.reshape(-1, 1, matrix.shape[-1])
    return rows[generator.integers(0, len(rows), count)]


def _fields(
    node: gs.Node, x: NDArray[np.float32], count: int, generator: np.random.Generator
) -> Rows:
    """What the kernel sees at random places, strides aside; near the border some of it is 0."""
    kernel = node.inputs[1].shape[2:]
    dilations = node.attrs.get("dilations") or [1] * len(kernel)
    extent = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *((size // 2, size // 2) for size in extent)])
    windows = sliding_window_view(padded, extent, axis=tuple(range(2, x.ndim)))
    place = (generator.integers(0, size, count) for size in windows.shape[2 : x.ndim])
    index: tuple[Any, ...] = (generator.integers(0, len(x), count), slice(None), *place)
    every: tuple[Any, ...] = (..., *(slice(None, None, step) for step in dilations))
    taps = windows[index][every]
    return np.ascontiguousarray(taps).reshape(count, node.attrs.get("group", 1), -1)

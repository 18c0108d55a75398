"""Which channels of what a node reads and computes must be divided alike, to compute the same.

An operator is one function that maps the channels of each of its tensors to those of the node; a
positive factor for each of the latter commutes with what the node computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, prod

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.graph.query import constant_value, consumers

Ints = NDArray[np.int64]

ELEMENTWISE = ("Identity", "LeakyRelu", "PRelu", "Relu")
"""Commute with positive factors, whatever axis counts the channels."""
SPATIAL = (
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMean", "Resize",
    "Upsample",
)  # fmt: skip
"""Commute with factors along axis 1. (Pools pad with what does not count, Resize interpolates.)"""
NO_LIMIT = 1e30
"""What exporters write for a side of Clip that is open: the largest float32, say."""


class RefusedError(Exception):
    """Factors do not commute; the text is the reason."""


@dataclass(frozen=True, eq=False)
class Passed:
    """A node in between, and how the search came to it."""

    node: gs.Node
    index: int | None
    """Of the input by which; None: by the output."""
    axis: int
    channels: int
    """Of the tensor by which."""

    def refuse(self, why: str = "does not commute with factors per channel") -> RefusedError:
        """What to raise where no ties make the node compute the same."""
        return RefusedError(f"{self.node.op} '{self.node.name}' {why}")

    @property
    def same(self) -> Ints:
        """The channels as they are."""
        return np.arange(self.channels)

    def shape(self, tensor: gs.Tensor) -> Sequence[int | str | None]:
        """Its shape.

        Raises:
            RefusedError: The rank is not known.
        """
        if tensor.shape is None:
            raise self.refuse("has a shape that is not known")
        shape: Sequence[int | str | None] = tensor.shape
        return shape

    def size(self, tensor: gs.Tensor) -> int:
        """Its channels.

        Raises:
            RefusedError: They are not known.
        """
        found = self.shape(tensor)[self.axis]
        if not isinstance(found, int):
            raise self.refuse("has a shape that is not known")
        return found


Tie = tuple[gs.Tensor, Ints]
"""A tensor, and for each of its channels the one among all of a node's channels."""


def _tie_elementwise(at: Passed) -> list[Tie]:
    if at.index:
        raise at.refuse()
    return [(at.node.inputs[0], at.same), (at.node.outputs[0], at.same)]


def _tie_clip(at: Passed) -> list[Tie]:
    """Commutes as far as no value reaches a limit."""
    limit_of(at)
    return _tie_elementwise(at)


def limit_of(at: Passed) -> float:
    """The magnitude that a Clip cuts at; infinite if at none, as any other operator.

    Raises:
        RefusedError: It is not known, or 0 does not pass, or nothing else does.
    """
    node = at.node
    if node.op != "Clip":
        return inf
    reaches = []
    for index, name, sign in ((1, "min", -1), (2, "max", 1)):
        side = node.inputs[index] if len(node.inputs) > index else None
        if side is None or side.is_empty():
            value = node.attrs.get(name)
        else:
            constant = constant_value(side)
            if constant is None:
                raise at.refuse("has limits that are computed")
            value = constant.item()
        reaches.append(inf if value is None or abs(value) > NO_LIMIT else sign * float(value))
    open_sides = [reach for reach in reaches if reach > 0]  # one that ends at 0 cuts off none
    if min(reaches) < 0 or not open_sides:
        raise at.refuse("has limits beside 0")
    return min(open_sides)


def _tie_spatial(at: Passed) -> list[Tie]:
    """Along the other axes alone, on values alone."""
    node = at.node
    is_cropping = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if at.axis != 1 or len(node.outputs) != 1 or is_cropping:  # cropping fills with a constant
        raise at.refuse()
    if node.op == "ReduceMean" and not _reduces_behind(node):
        raise at.refuse()
    before, after = at.shape(node.inputs[0]), at.shape(node.outputs[0])
    if len(after) < 2 or before[1] is None or before[1] != after[1]:
        raise at.refuse("does not work along the other axes alone")
    return _tie_elementwise(at)


def _reduces_behind(node: gs.Node) -> bool:
    """Whether along axes behind the channels' alone."""
    axes = _ints(node.attrs.get("axes") if len(node.inputs) < 2 else node.inputs[1])
    rank = len(node.inputs[0].shape or ())
    return bool(axes and rank) and all(axis % rank > 1 for axis in axes or ())


def _tie_pad(at: Passed) -> list[Tie]:
    """Further channels may be zeros."""
    node = at.node
    if at.index:
        raise at.refuse()
    pads = _ints(node.attrs.get("pads") if len(node.inputs) < 2 else node.inputs[1])
    before = at.shape(node.inputs[0])
    is_partial = len(node.inputs) > 3 and not node.inputs[3].is_empty()
    if pads is None or len(pads) != 2 * len(before) or is_partial:
        raise at.refuse("has pads that are not known")
    axis = at.axis % len(before)
    first, last = pads[axis], pads[axis + len(before)]
    is_constant = node.attrs.get("mode", "constant") == "constant"
    if (is_constant and not _pads_with_zeros(node)) or min(first, last, 0) < 0:
        raise at.refuse()
    if not first and not last:
        return _tie_elementwise(at)
    if not is_constant:
        raise at.refuse()
    size = at.size(node.inputs[0])
    return [
        (node.outputs[0], np.arange(first + size + last)),
        (node.inputs[0], np.arange(first, first + size)),
    ]


def _tie_sum(at: Passed) -> list[Tie]:
    """What is added must have all the channels; constants are divided too."""
    node = at.node
    operands = [tensor for tensor in node.inputs if not isinstance(tensor, gs.Constant)]
    out = at.shape(node.outputs[0])
    for tensor in operands:
        if len(at.shape(tensor)) != len(out) or at.size(tensor) != at.channels:
            raise at.refuse("adds tensors of different channels")
    return [(tensor, at.same) for tensor in (*operands, node.outputs[0])]


def _tie_product(at: Passed) -> list[Tie]:
    """The other factor goes on as it is; it must not broadcast the channels."""
    node = at.node
    constants = [isinstance(tensor, gs.Constant) for tensor in node.inputs]
    index = constants.index(False) if at.index is None and any(constants) else at.index
    if index is None or (node.op == "Div" and index):
        raise at.refuse()
    read, out = node.inputs[index], node.outputs[0]
    if node.inputs[1 - index] is read:
        raise at.refuse(f"multiplies '{read.name}' with its like")
    if len(at.shape(read)) != len(at.shape(out)):
        raise at.refuse("broadcasts the channels")
    return [(read, at.same), (out, at.same)]


def _tie_matmul(at: Passed) -> list[Tie]:
    """Attention mixes positions alone, of the values on the right."""
    right = at.node.inputs[1]
    if at.index == 0 or at.axis != -1 or isinstance(right, gs.Constant) or len(at.shape(right)) < 2:
        raise at.refuse()
    return [(right, at.same), (at.node.outputs[0], at.same)]


def _tie_flat(at: Passed) -> list[Tie]:
    """All behind the first axis laid out in one: each channel, place after place."""
    read, out = at.node.inputs[0], at.node.outputs[0]
    before = at.shape(read)
    if at.index or at.axis != 1 or len(before) < 2:
        raise at.refuse()
    sizes = [size for size in before[1:] if isinstance(size, int)]
    if len(sizes) != len(before) - 1:
        raise at.refuse("flattens a shape that is not known")
    if _columns(out) != prod(sizes):
        raise at.refuse()
    return [(read, np.arange(sizes[0])), (out, np.repeat(np.arange(sizes[0]), prod(sizes[1:])))]


def _columns(matrix: gs.Tensor) -> int | None:
    """Of a tensor of two axes, by its shape or else by the Gemm that reads it."""
    if matrix.shape is not None and (len(matrix.shape) != 2 or isinstance(matrix.shape[1], int)):
        return matrix.shape[1] if len(matrix.shape) == 2 else None
    gemms = (node for node, index in consumers(matrix) if node.op == "Gemm" and not index)
    weights = [(node, node.inputs[1].shape) for node in gemms if not node.attrs.get("transA", 0)]
    sizes = {shape[node.attrs.get("transB", 0)] for node, shape in weights if shape is not None}
    return next(iter(sizes)) if len(sizes) == 1 else None


def _tie_concat(at: Passed) -> list[Tie]:
    if any(isinstance(tensor, gs.Constant) for tensor in at.node.inputs):
        raise at.refuse("joins constants")
    return _tie_parts(at, at.node.outputs[0], at.node.inputs)


def _tie_split(at: Passed) -> list[Tie]:
    if at.index:
        raise at.refuse()
    return _tie_parts(at, at.node.inputs[0], at.node.outputs)


def _tie_parts(at: Passed, whole: gs.Tensor, parts: Sequence[gs.Tensor]) -> list[Tie]:
    """Along the channels each part has its own of the whole; along another axis all of them."""
    rank = len(at.shape(whole))
    if at.node.attrs.get("axis", 0) % rank != at.axis % rank:
        return [(tensor, at.same) for tensor in (whole, *parts)]
    ends = np.cumsum([at.size(tensor) for tensor in parts])
    own = np.split(np.arange(ends[-1]), ends[:-1])
    return [(whole, np.arange(ends[-1])), *zip(parts, own, strict=True)]


def _tie_slice(at: Passed) -> list[Tie]:
    node = at.node
    rank = len(at.shape(node.inputs[0]))
    given = [ints for tensor in node.inputs[1:] if (ints := _ints(tensor)) is not None]
    if at.index or not 2 <= len(given) == len(node.inputs) - 1:
        raise at.refuse("has limits that are not known")
    starts, ends, *rest = given
    axes = rest[0] if rest and rest[0] else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 and rest[1] else [1] * len(starts)
    taken = np.arange(at.size(node.inputs[0]))
    whole = len(taken)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if axis % rank == at.axis % rank:
            taken = taken[slice(start, None if step < 0 and end < -whole else end, step)]
    return [(node.inputs[0], np.arange(whole)), (node.outputs[0], taken)]


TIES: dict[str, Callable[[Passed], list[Tie]]] = {
    **dict.fromkeys(ELEMENTWISE, _tie_elementwise),
    **dict.fromkeys(SPATIAL, _tie_spatial),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze"), _tie_flat),
    **dict.fromkeys(("Add", "Sum"), _tie_sum),
    **dict.fromkeys(("Div", "Mul"), _tie_product),
    "Clip": _tie_clip,
    "Concat": _tie_concat,
    "MatMul": _tie_matmul,
    "Pad": _tie_pad,
    "Slice": _tie_slice,
    "Split": _tie_split,
}
"""Operator -> which channels of what it reads and computes have to be divided alike."""


def _ints(values: gs.Tensor | Sequence[int] | None) -> list[int] | None:
    """Constant integers; none for an absent input; None where they are computed."""
    if isinstance(values, gs.Tensor):
        if values.is_empty():
            return []
        constant = constant_value(values)
        return None if constant is None else [int(value) for value in constant.reshape(-1)]
    return None if values is None else [int(value) for value in values]


def _pads_with_zeros(node: gs.Node) -> bool:
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return not node.attrs.get("value", 0.0)
    value = constant_value(node.inputs[2])
    return value is not None and not np.any(value)

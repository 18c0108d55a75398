"""Input values brought onto the quantizer's codes, so that quantizing them loses nothing.

The pixels of a picture are 256 numbers, and INT8 has as many codes. Between them stands the usual
normalization, (p / 255 − mean) / std a channel, after which one scale for all channels rounds each
pixel anew: on ResNet-20 that is a quarter of all that INT8 does to the outputs after `equalize`.
Where the values of the tensor that a first Conv reads lie on at most 256 even steps in each
channel, a multiplication and an addition make whole numbers of -128 to 127 of them, which the
weights and the bias behind undo. The compiler computes both, and the padding that has to come
before, in the kernel that quantizes the input anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxqat.calibration.runtime import TensorReader
from onnxqat.core.plan import QuantPlan
from onnxqat.core.spec import Edge, QuantDtype
from onnxqat.data import Batch
from onnxqat.graph import Change, Graph
from onnxqat.graph.mapped_input import map_input, why_not_mapped
from onnxqat.graph.names import Names
from onnxqat.graph.passes.affine import has_constant_weights
from onnxqat.graph.query import comes_from_inputs
from onnxqat.initialization.context import KEPT

Doubles = NDArray[np.float64]

LOWEST, HIGHEST = -128, 127
"""Codes of INT8."""
CODES = HIGHEST - LOWEST + 1
MOST_VALUES = 4 * CODES
"""Of a channel: the same number may come a little different from each picture."""
SAME = 1e-4
"""Share of a channel's range within which two values are taken to be one."""
EVEN = 0.01
"""Of a step, by which a value may be off its place."""
PREPROCESSING = frozenset(
    {
        "Add", "Cast", "Concat", "Div", "Flatten", "Gather", "Identity", "Mul", "Pad", "Reshape",
        "Slice", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""What may lie between an input of the graph and a first Conv."""


@dataclass(frozen=True)
class Steps:
    """Even steps that all values of a channel lie on."""

    low: float
    size: float
    last: int
    """How many steps the highest value lies above the lowest."""


def align(
    graph: Graph,
    plan: QuantPlan,
    batches: Iterable[Batch],
    *,
    threads: int | None,
    on_change: Callable[[Change], None],
) -> None:
    """Change a graph, in place, so that the inputs of its first Convs are whole numbers.

    Args:
        graph: A prepared FP32 graph.
        plan: Where it will be quantized; only what will have 8-bit codes is looked at.
        batches: Samples, which should show the lowest and the highest value there is.
        threads: Of ONNX Runtime.
        on_change: Called for each tensor with what was done, or why nothing was.
    """
    convs = _first_convs(graph, plan)
    for tensor, nodes in list(convs.items()):
        refused = [why for node in nodes if (why := why_not_mapped(node)) is not None]
        if refused:
            on_change(Change(KEPT, nodes[0].name, refused[0]))
            del convs[tensor]
    if not convs:
        return
    seen = _observed(graph, sorted(convs), batches, threads)
    names = Names(graph)
    for tensor, nodes in convs.items():
        steps = [_steps(values) for values in seen[tensor]]
        even = [step for step in steps if step is not None]
        if len(even) < len(steps):
            why = f"the values of '{tensor}' lie on no {CODES} even steps"
            on_change(Change(KEPT, nodes[0].name, why))
            continue
        factors, shifts = _map(even)
        map_input(graph, nodes, factors, shifts, names)
        levels = max(step.last for step in even) + 1
        told = f"the {levels} values of '{tensor}' are whole numbers now, which INT8 holds exactly"
        on_change(Change("align", nodes[0].name, told))


def _first_convs(graph: Graph, plan: QuantPlan) -> dict[str, list[gs.Node]]:
    """By the tensor that they read, where it will be quantized to 8-bit codes."""
    found: dict[str, list[gs.Node]] = {}
    for node in graph.nodes:
        if node.op != "Conv" or not has_constant_weights(node):
            continue
        tensor = node.inputs[0]
        edge = Edge(tensor.name, node.name, 0)
        is_planned = edge in plan.by_edge and plan.spec_of(edge).dtype is QuantDtype.INT8
        if is_planned and comes_from_inputs(tensor, PREPROCESSING):
            found.setdefault(tensor.name, []).append(node)
    return found


def _observed(
    graph: Graph, tensors: Sequence[str], batches: Iterable[Batch], threads: int | None
) -> Mapping[str, Sequence[Doubles | None]]:
    """For each tensor the distinct values of each channel, rising; None: too many."""
    inputs = {tensor.name for tensor in graph.inputs}
    reader = TensorReader(graph, tensors, threads=threads) if set(tensors) - inputs else None
    seen: dict[str, list[Doubles | None]] = {}
    for batch in batches:
        arrays = batch.inputs if reader is None else reader(batch.inputs)
        for tensor in tensors:
            channels = np.moveaxis(arrays[tensor], 1, 0)
            known = seen.setdefault(tensor, [np.zeros(0)] * len(channels))
            seen[tensor] = [_with(old, x) for old, x in zip(known, channels, strict=True)]
        if all(x is None for channels in seen.values() for x in channels):
            break
    return seen


def _with(known: Doubles | None, values: NDArray[np.generic]) -> Doubles | None:
    if known is None:
        return None
    distinct = np.union1d(known, values.astype(np.float64))
    return None if len(distinct) > MOST_VALUES else distinct


def _steps(values: Doubles | None) -> Steps | None:
    """The even steps that rising values lie on, if there are so few. Zeros may be a padding's, and
    need not lie on one.
    """
    if values is None or not np.isfinite(values).all():
        return None
    return _fitted(values) or _fitted(values[values != 0])


def _fitted(values: Doubles) -> Steps | None:
    if not len(values):
        return None
    span = values[-1] - values[0]
    if span == 0:
        return Steps(float(values[0]), 1.0, 0)
    apart = values[np.append(True, np.diff(values) > SAME * span)]
    if len(apart) > CODES:
        return None
    places = np.rint((apart - apart[0]) / np.diff(apart).min())
    if places[-1] >= CODES:
        return None
    size, low = np.polyfit(places, apart, 1)
    if np.abs(low + size * places - apart).max() > EVEN * size:
        return None
    return Steps(float(low), float(size), int(places[-1]))


def _map(channels: Sequence[Steps]) -> tuple[Doubles, Doubles]:
    """Factor and shift of each channel, after which its values are codes.

    Zero stays zero where it is one of the steps and the others then fit: nothing is shifted, and
    the Conv can pad as it did. Else the values lie in the middle of the codes.
    """
    factors = np.array([1 / step.size for step in channels])
    lows = np.array([step.low / step.size for step in channels])
    last = np.array([step.last for step in channels])
    first = np.rint(lows)
    is_whole = np.abs(lows - first) < EVEN
    if (is_whole & (first >= LOWEST) & (first + last <= HIGHEST)).all():
        return factors, np.zeros_like(factors)
    first = LOWEST + (CODES - 1 - last) // 2
    return factors, first - lows

"""Raise the opset of a graph: each operator whose meaning or form changed is rewritten.

ONNX's own version converter is not used. It takes Resize and Upsample of opset 10 over without the
coordinate rule that they had, and Hardmax with another axis rule: both silently wrong. And it sends
the whole model, weights included, through C++ and back, which ends at 2 GB.

Source: https://onnx.ai/onnx/operators/ and the "Version" notes of each operator there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx import helper

from onnxqat.core.errors import ConfigError, ModelError
from onnxqat.graph.change import Change
from onnxqat.graph.graph import Graph, all_graphs, is_onnx
from onnxqat.graph.names import Names
from onnxqat.graph.query import constant_value, consumers, is_output

OLDEST = 7
"""Opsets before it spell broadcasting out in attributes; ONNX Runtime refuses them as well."""
NEWEST = 23
"""Operators were compared version by version up to here."""


@dataclass(frozen=True)
class _Upgrade:
    """A node on its way to another opset."""

    graph: gs.Graph
    node: gs.Node
    names: Names

    def constant(self, what: str, values: Any, dtype: Any = np.int64) -> gs.Constant:
        """A new initializer named after the node's output."""
        name = self.names.tensor(f"{self.node.outputs[0].name}_{what}")
        return gs.Constant(name, np.asarray(values, dtype))

    def to_input(self, attribute: str, index: int, dtype: Any = np.int64) -> None:
        """Move an attribute to an input; inputs between are left out."""
        if attribute in self.node.attrs:
            values = self.node.attrs.pop(attribute)
            while len(self.node.inputs) < index:
                self.node.inputs.append(gs.Variable.empty())
            self.node.inputs.append(self.constant(attribute, values, dtype))

    def refuse(self, why: str) -> ModelError:
        return ModelError(
            f"{self.node.op} cannot be raised to a newer opset: {why}",
            node=self.node.name,
            fix="export the model again with opset 13 or newer",
        )


def raise_opset(graph: Graph, opset: int) -> Iterator[Change]:
    """Raise the graph to an opset where it is lower, with its subgraphs.

    Raises:
        ModelError: The graph is older than opset 7, or a node has no equal in the new opset.
        ConfigError: The wished opset is newer than this package knows.
    """
    if graph.opset >= opset:
        return
    if opset > NEWEST:
        raise ConfigError(f"opset {opset} is newer than {NEWEST}, the last one known here")
    if graph.opset < OLDEST:
        raise ModelError(
            f"the model has opset {graph.opset}, and {OLDEST} is the oldest that can be raised",
            fix="export it again, or convert it with onnx.version_converter",
        )
    names = Names(graph)
    for inner in list(all_graphs(graph)):
        for node in list(inner.nodes):
            if is_onnx(node):
                yield from _upgrade(_Upgrade(inner, node, names), graph.opset, opset)
    yield Change("raise opset", graph.name, f"the opset was {graph.opset}, is {opset}")
    for inner in all_graphs(graph):
        inner.opset = opset
    least = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    if (graph.ir_version or 0) < least:
        yield Change(
            "raise opset", graph.name, f"the IR version was {graph.ir_version}, is {least}"
        )
        graph.ir_version = least


def _upgrade(upgrade: _Upgrade, old: int, new: int) -> Iterator[Change]:
    node = upgrade.node
    for since, ops, rewrite in UPGRADES:
        if old < since <= new and node.op in ops:
            before = node.op
            rewrite(upgrade)
            yield Change("rewrite for opset", node.name, f"{before} in its form of opset {since}")


def _upsample_9(upgrade: _Upgrade) -> None:
    upgrade.to_input("scales", 1, np.float32)


def _upsample_10(upgrade: _Upgrade) -> None:
    upgrade.node.op = "Resize"


def _slice_10(upgrade: _Upgrade) -> None:
    for index, attribute in enumerate(("starts", "ends", "axes"), start=1):
        upgrade.to_input(attribute, index)


def _topk_10(upgrade: _Upgrade) -> None:
    upgrade.node.attrs["k"] = [upgrade.node.attrs["k"]]
    upgrade.to_input("k", 1)


def _batch_normalization_9(upgrade: _Upgrade) -> None:
    if upgrade.node.attrs.pop("spatial", 1) != 1:
        raise upgrade.refuse("statistics for each position (spatial=0) no longer exist")


def _scan_9(upgrade: _Upgrade) -> None:
    raise upgrade.refuse("Scan of opset 8 runs over a batch axis")


def _clip_11(upgrade: _Upgrade) -> None:
    dtype = upgrade.node.inputs[0].dtype or np.float32
    upgrade.to_input("min", 1, dtype)
    upgrade.to_input("max", 2, dtype)


def _pad_11(upgrade: _Upgrade) -> None:
    dtype = upgrade.node.inputs[0].dtype or np.float32
    upgrade.to_input("pads", 1)
    upgrade.to_input("value", 2, dtype)


def _resize_11(upgrade: _Upgrade) -> None:
    """Before 11 the one rule was x_in = x_out / scale; nearest rounds down, or up when shrinking.

    Source: ONNX Runtime's Upsample for opset 10 (UpsampleNearestMode::SIMPLE).
    """
    node = upgrade.node
    scales = constant_value(node.inputs[1])
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    if node.attrs.get("mode", "nearest") == "nearest":
        if scales is None:
            raise upgrade.refuse("its scales are computed, so its rounding rule is not known")
        smaller, larger = (scales < 1).any(), (scales > 1).any()
        if smaller and larger:
            raise upgrade.refuse("it rounds down along one axis and up along another")
        node.attrs["nearest_mode"] = "ceil" if smaller else "floor"
    node.inputs.insert(1, upgrade.constant("roi", [], np.float32))


def _scatter_11(upgrade: _Upgrade) -> None:
    upgrade.node.op = "ScatterElements"


def _dropout_12(upgrade: _Upgrade) -> None:
    upgrade.node.attrs.pop("ratio", None)  # of no effect at inference


def _axes_to_input(upgrade: _Upgrade) -> None:
    upgrade.to_input("axes", 1)


def _split_13(upgrade: _Upgrade) -> None:
    upgrade.to_input("split", 1)


def _softmax_13(upgrade: _Upgrade) -> None:
    """Before 13 the axes from `axis` on were one; now `axis` is alone.

    Equal where `axis` is the last, or all behind it are 1; else the tensor is flattened for it.
    """
    node, names = upgrade.node, upgrade.names
    source, axis = node.inputs[0], node.attrs.get("axis", 1)
    shape = source.shape
    if axis == -1 or (shape is not None and all(dim == 1 for dim in shape[axis:][1:])):
        node.attrs["axis"] = axis
        return
    stem = node.outputs[0].name
    flat, result, shape_out = (
        gs.Variable(names.tensor(f"{stem}_{what}"), dtype)
        for what, dtype in (("flat", source.dtype), ("rows", source.dtype), ("shape", np.int64))
    )
    before = [
        gs.Node("Shape", names.node(f"{node.name}_shape"), {}, [source], [shape_out]),
        gs.Node("Flatten", names.node(f"{node.name}_flatten"), {"axis": axis}, [source], [flat]),
    ]
    output = node.outputs[0]
    node.outputs.clear()
    node.outputs.append(result)
    node.inputs[0] = flat
    node.attrs["axis"] = -1
    back = gs.Node("Reshape", names.node(f"{node.name}_reshape"), {}, [result, shape_out], [output])
    index = next(i for i, other in enumerate(upgrade.graph.nodes) if other is node)
    upgrade.graph.nodes[index : index + 1] = [*before, node, back]


def _batch_normalization_14(upgrade: _Upgrade) -> None:
    for extra in list(upgrade.node.outputs[1:]):
        if consumers(extra) or is_output(upgrade.graph, extra):
            raise upgrade.refuse("its running statistics are read")
    while len(upgrade.node.outputs) > 1:
        upgrade.node.outputs.pop()


def _roi_align_16(upgrade: _Upgrade) -> None:
    upgrade.node.attrs.setdefault("coordinate_transformation_mode", "output_half_pixel")


def _split_18(upgrade: _Upgrade) -> None:
    if len(upgrade.node.inputs) < 2 or upgrade.node.inputs[1].is_empty():
        upgrade.node.attrs["num_outputs"] = len(upgrade.node.outputs)


def _grid_sample_20(upgrade: _Upgrade) -> None:
    mode = upgrade.node.attrs.get("mode", "bilinear")
    upgrade.node.attrs["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


def _dft_20(upgrade: _Upgrade) -> None:
    upgrade.node.attrs["axis"] = upgrade.node.attrs.get("axis", 1)
    upgrade.to_input("axis", 2)


def _group_normalization_21(upgrade: _Upgrade) -> None:
    raise upgrade.refuse("its scale and bias are one a group")


REDUCTIONS = frozenset(
    ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
     "ReduceMin", "ReduceProd", "ReduceSumSquare")
)  # fmt: skip

Rewrite = Callable[[_Upgrade], None]

UPGRADES: tuple[tuple[int, frozenset[str], Rewrite], ...] = (
    (9, frozenset(["Upsample"]), _upsample_9),
    (9, frozenset(["BatchNormalization"]), _batch_normalization_9),
    (9, frozenset(["Scan"]), _scan_9),
    (10, frozenset(["Upsample"]), _upsample_10),
    (10, frozenset(["Slice"]), _slice_10),
    (10, frozenset(["TopK"]), _topk_10),
    (11, frozenset(["Clip"]), _clip_11),
    (11, frozenset(["Pad"]), _pad_11),
    (11, frozenset(["Resize"]), _resize_11),
    (11, frozenset(["Scatter"]), _scatter_11),
    (12, frozenset(["Dropout"]), _dropout_12),
    (13, frozenset(["ReduceSum", "Squeeze", "Unsqueeze"]), _axes_to_input),
    (13, frozenset(["Split"]), _split_13),
    (13, frozenset(["Softmax", "LogSoftmax", "Hardmax"]), _softmax_13),
    (14, frozenset(["BatchNormalization"]), _batch_normalization_14),
    (16, frozenset(["RoiAlign"]), _roi_align_16),
    (18, REDUCTIONS, _axes_to_input),
    (18, frozenset(["Split"]), _split_18),
    (20, frozenset(["GridSample"]), _grid_sample_20),
    (20, frozenset(["DFT"]), _dft_20),
    (21, frozenset(["GroupNormalization"]), _group_normalization_21),
)
"""(opset, operators, how a node of them is rewritten for it), in order of the opset. Operators that
are not here kept their meaning, or only took on more types or new optional parts."""

"""Which quantized tensors must have one scale, so that Q and DQ between them cancel."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxqat.graph.query import producer
from onnxqat.placement.scene import Scene, is_constant, value_inputs


def equal_scale_groups(scene: Scene) -> tuple[tuple[str, ...], ...]:
    """Groups of two and more quantized tensors that only moves lie between, the source first.

    A quantized tensor belongs with the nearest quantized tensors that its values come from through
    ops that only copy or choose values. Branches of one unquantized tensor, as the query, key and
    value that one MatMul computes, do not belong together: their ranges may differ at no cost.
    """
    group_of: dict[str, set[str]] = {}
    for tensor in _quantized_outputs(scene):
        for source in _nearest_quantized(scene, tensor):
            joined = group_of.get(tensor.name, {tensor.name}) | group_of.get(source, {source})
            group_of.update(dict.fromkeys(joined, joined))
    distinct = {id(group): group for group in group_of.values()}.values()
    return tuple(sorted(_source_first(scene, group) for group in distinct))


def _source_first(scene: Scene, group: set[str]) -> tuple[str, ...]:
    return tuple(sorted(group, key=lambda tensor: (scene.depths[tensor], tensor)))


def _quantized_outputs(scene: Scene) -> Iterator[gs.Tensor]:
    for node in scene.graph.nodes:
        yield from (output for output in node.outputs if scene.is_quantized(output))


def _nearest_quantized(scene: Scene, tensor: gs.Tensor) -> Iterator[str]:
    pending, seen = [tensor], {tensor.name}
    while pending:
        node = producer(pending.pop())
        for source in () if node is None else value_inputs(node):
            if source.name in seen or is_constant(source):
                continue
            seen.add(source.name)
            if scene.is_quantized(source):
                yield source.name
            else:
                pending.append(source)

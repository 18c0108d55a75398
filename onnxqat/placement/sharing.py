"""Which quantized tensors must have one scale, so that each value is stored in INT8 once."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxqat.graph.query import producer
from onnxqat.placement.scene import Scene, chooses_part, is_constant, value_inputs


def equal_scale_groups(scene: Scene) -> tuple[tuple[gs.Tensor, ...], ...]:
    """Groups of two and more quantized tensors that share values, the nearest to the inputs first.

    Between two of a group are only ops that copy or choose values, over which Q and DQ move:

    - one lies above the other: with equal scales, what is above is the INT8 form of both;
    - both are made of all values of one tensor above, as a MaxPool and a Concat of it: with equal
      scales it is stored once. Parts, as the query, key and value that one MatMul computes, do not
      count: they have no value in common, and often different ranges.
    """
    tensors: dict[str, gs.Tensor] = {}
    groups: dict[str, set[str]] = {}
    for one, other in _pairs(scene):
        joined = groups.get(one.name, {one.name}) | groups.get(other.name, {other.name})
        groups.update(dict.fromkeys(joined, joined))
        tensors |= {one.name: one, other.name: other}
    distinct = {id(group): group for group in groups.values()}.values()
    ordered = [sorted((scene.depth(tensors[name]), name) for name in group) for group in distinct]
    return tuple(tuple(tensors[name] for _, name in group) for group in sorted(ordered))


def _pairs(scene: Scene) -> Iterator[tuple[gs.Tensor, gs.Tensor]]:
    """The pairs of quantized tensors that must have equal scales, some of them implied."""
    wholes: dict[str, gs.Tensor] = {}
    for node in scene.graph.nodes:
        for tensor in filter(scene.is_quantized, node.outputs):
            for source, is_whole in _sources(scene, tensor):
                if scene.is_quantized(source):
                    yield source, tensor
                elif is_whole:
                    yield wholes.setdefault(source.name, tensor), tensor


def _sources(scene: Scene, tensor: gs.Tensor) -> Iterator[tuple[gs.Tensor, bool]]:
    """The tensors whose values this one has, up to the nearest quantized ones, and whether all of
    their values are in it.
    """
    pending, seen = [(tensor, True)], set()
    while pending:
        below, is_whole = pending.pop()
        node = producer(below)
        for source in () if node is None else value_inputs(node):
            found = (source, is_whole and not chooses_part(node))
            key = (source.name, found[1])
            if key not in seen and not is_constant(source):
                seen.add(key)
                yield found
                if not scene.is_quantized(source):
                    pending.append(found)

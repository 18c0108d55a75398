"""Which quantized tensors must have one scale, so that each value is stored in INT8 once."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from onnxqat.graph.query import producer
from onnxqat.placement.families import CHOOSES_PART
from onnxqat.placement.scene import Scene, is_constant, value_inputs

Groups = dict[str, set[str]]
"""Tensor -> all tensors of its group, one set object a group."""


def equal_scale_groups(scene: Scene) -> tuple[tuple[str, ...], ...]:
    """Groups of two and more quantized tensors that share values, the nearest to the inputs first.

    Between two of a group are only ops that copy or choose values, over which Q and DQ move:

    - one lies above the other: with equal scales, what is above is the INT8 form of both;
    - both are made of all values of one tensor above, as a MaxPool and a Concat of it: with equal
      scales it is stored once. Parts, as the query, key and value that one MatMul computes, do not
      count: they have no value in common, and often different ranges.
    """
    groups: Groups = {}
    wholes: dict[str, list[str]] = {}
    for tensor in _quantized_outputs(scene):
        for source, is_whole in _sources(scene, tensor):
            if scene.is_quantized(source):
                _join(groups, tensor.name, source.name)
            elif is_whole:
                wholes.setdefault(source.name, []).append(tensor.name)
    for first, *others in wholes.values():
        for other in others:
            _join(groups, first, other)
    distinct = {id(group): group for group in groups.values()}.values()
    return tuple(sorted(_by_depth(scene, group) for group in distinct))


def _join(groups: Groups, left: str, right: str) -> None:
    joined = groups.get(left, {left}) | groups.get(right, {right})
    groups.update(dict.fromkeys(joined, joined))


def _by_depth(scene: Scene, group: set[str]) -> tuple[str, ...]:
    return tuple(sorted(group, key=lambda tensor: (scene.depths[tensor], tensor)))


def _quantized_outputs(scene: Scene) -> Iterator[gs.Tensor]:
    for node in scene.graph.nodes:
        yield from (output for output in node.outputs if scene.is_quantized(output))


def _sources(scene: Scene, tensor: gs.Tensor) -> Iterator[tuple[gs.Tensor, bool]]:
    """The tensors whose values this one has, up to the nearest quantized ones, and whether all of
    their values are in it.
    """
    pending, seen = [(tensor, True)], {tensor.name}
    while pending:
        below, is_whole = pending.pop()
        node = producer(below)
        if node is None:
            continue
        for source in value_inputs(node):
            if source.name in seen or is_constant(source):
                continue
            seen.add(source.name)
            found = (source, is_whole and node.op not in CHOOSES_PART)
            yield found
            if not scene.is_quantized(source):
                pending.append(found)

"""Which quantized tensors must have one scale, so that each value is stored in INT8 once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxqat.graph.query import producer
from onnxqat.placement.scene import Scene, chooses_part, is_constant, value_inputs


def equal_scale_groups(scene: Scene) -> tuple[tuple[gs.Tensor, ...], ...]:
    """Groups of two and more quantized tensors that share values, the nearest to the inputs first.

    Between two of a group are only ops that copy or choose values, over which Q and DQ move:

    - one lies above the other, and has all of its values or no others: with equal scales, what is
      above is the INT8 form of both;
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
            for found in _sources(scene, tensor):
                if scene.is_quantized(found.tensor) and (found.is_whole or found.is_all):
                    yield found.tensor, tensor
                elif found.is_whole:
                    yield wholes.setdefault(found.tensor.name, tensor), tensor


@dataclass(frozen=True)
class _Source:
    """A tensor whose values another one has."""

    tensor: gs.Tensor
    is_whole: bool
    """Whether all of its values are in the other."""
    is_all: bool
    """Whether all values of the other are its own."""

    @property
    def key(self) -> tuple[str, bool, bool]:
        return self.tensor.name, self.is_whole, self.is_all

    def above(self, node: gs.Node) -> Iterator[_Source]:
        """What the node that made it copied its values from."""
        sources = [x for x in value_inputs(node) if not is_constant(x)]
        is_whole = self.is_whole and not chooses_part(node)
        is_all = self.is_all and len(sources) == 1
        return (_Source(source, is_whole, is_all) for source in sources)


def _sources(scene: Scene, tensor: gs.Tensor) -> Iterator[_Source]:
    """The tensors whose values this one has, up to the nearest quantized ones."""
    pending, seen = [_Source(tensor, is_whole=True, is_all=True)], set()
    while pending:
        below = pending.pop()
        node = producer(below.tensor)
        for found in () if node is None else below.above(node):
            if found.key not in seen:
                seen.add(found.key)
                yield found
                if not scene.is_quantized(found.tensor):
                    pending.append(found)

"""The few nodes around a place in a graph, as boxes and links to be drawn."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxqat.auditing.values import label
from onnxqat.core.qdq_passage import QDQ_OPS
from onnxqat.graph.query import constant_value, producer

MOST_NODES = 12
"""What a person takes in at a glance, and what fits beside another picture."""

QUANTIZER, OPERATOR, WEIGHT, TERMINAL = "quantizer", "operator", "weight", "terminal"


@dataclass(frozen=True)
class Box:
    """One thing in a picture."""

    key: str
    """Unique in its picture."""
    kind: str
    """`operator`, `quantizer`, `weight`, or `terminal` for inputs and outputs of the graph."""
    title: str
    detail: str
    is_focus: bool = False


@dataclass(frozen=True)
class Link:
    """A tensor on its way from one box to another."""

    source: str
    target: str
    tensor: str


@dataclass(frozen=True)
class Neighbourhood:
    """A small part of a graph."""

    boxes: tuple[Box, ...]
    links: tuple[Link, ...]
    hidden: int
    """Links that lead out of the picture."""
    nodes: frozenset[str]
    """Names of the nodes in it."""
    focus: frozenset[str] = frozenset()
    """Names of those that it is about."""


class Map:
    """Finds places in one graph; built once, asked for each finding."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph

    def around(self, *, node: str | None, tensor: str | None) -> Neighbourhood | None:
        """The neighbourhood of a node, else of a tensor; None where the graph has neither."""
        seeds = self._seeds(node, tensor)
        return self._picture(self._nearest(seeds), focus=seeds) if seeds else None

    def same_place(self, other: Neighbourhood) -> Neighbourhood | None:
        """A place in another state of the graph: its nodes, and the Q and DQ nodes about them that
        are only here; None if none of the nodes is here.
        """
        seeds = [self._by_name[name] for name in sorted(other.nodes) if name in self._by_name]
        focus = [node for node in seeds if label(node) in other.focus]
        around = self._nearest(seeds, through=QDQ_OPS, most=3 * MOST_NODES)
        return self._picture(_pruned(around, seeds), focus=focus) if seeds else None

    @cached_property
    def _by_name(self) -> dict[str, gs.Node]:
        return {label(node): node for node in self._graph.nodes}

    @cached_property
    def _order(self) -> dict[int, int]:
        return {id(node): place for place, node in enumerate(self._graph.nodes)}

    @cached_property
    def _by_tensor(self) -> dict[str, list[gs.Node]]:
        """Tensor -> its producer, or its consumers where nothing computes it."""
        found: dict[str, list[gs.Node]] = {}
        for node in self._graph.nodes:
            for tensor in node.inputs:
                if producer(tensor) is None:
                    found.setdefault(tensor.name, []).append(node)
        made = {t.name: [node] for node in self._graph.nodes for t in node.outputs}
        return found | made

    def _seeds(self, node: str | None, tensor: str | None) -> list[gs.Node]:
        if node is not None and node in self._by_name:
            return [self._by_name[node]]
        return self._by_tensor.get(tensor, [])[:3] if tensor else []

    def _nearest(
        self,
        seeds: Sequence[gs.Node],
        *,
        through: Collection[str] | None = None,
        most: int = MOST_NODES,
    ) -> list[gs.Node]:
        """The seeds and the nodes nearest to them, in the order of the file.

        Args:
            seeds: Where to begin.
            through: The only operators to go on to; None: any.
            most: How many nodes, seeds included.
        """
        found = {id(node): node for node in seeds}
        queue = deque(found.values())
        while queue and len(found) < most:
            for neighbour in _neighbours(queue.popleft()):
                is_wanted = id(neighbour) in self._order and (  # not in a subgraph
                    through is None or neighbour.op in through
                )
                if is_wanted and id(neighbour) not in found and len(found) < most:
                    found[id(neighbour)] = neighbour
                    queue.append(neighbour)
        return sorted(found.values(), key=lambda node: self._order[id(node)])

    def _picture(self, nodes: list[gs.Node], *, focus: list[gs.Node]) -> Neighbourhood:
        keys = {id(node): f"n{self._order[id(node)]}" for node in nodes}
        boxes = [_node_box(n, key=keys[id(n)], is_focus=any(n is f for f in focus)) for n in nodes]
        links: list[Link] = []
        hidden = 0
        for node in nodes:
            for tensor in node.inputs:
                source = producer(tensor)
                if source is not None:
                    inside = id(source) in keys
                    hidden += not inside
                    if inside:
                        links.append(Link(keys[id(source)], keys[id(node)], tensor.name))
                elif (box := self._source_box(node, tensor)) is not None:
                    links.append(Link(box.key, keys[id(node)], tensor.name))
                    boxes.append(box)
            for tensor in node.outputs:
                hidden += sum(id(reader) not in keys for reader in tensor.outputs)
                if any(tensor is output for output in self._graph.outputs):
                    box = Box(f"o{tensor.name}", TERMINAL, "output", tensor.name)
                    boxes.append(box)
                    links.append(Link(keys[id(node)], box.key, tensor.name))
        unique = {box.key: box for box in boxes}
        names = frozenset(label(node) for node in nodes)
        marked = frozenset(label(node) for node in focus)
        return Neighbourhood(tuple(unique.values()), tuple(links), hidden, names, marked)

    def _source_box(self, node: gs.Node, tensor: gs.Tensor) -> Box | None:
        """An input of the graph, or weights; None for the rest, scales and biases."""
        if tensor.is_empty():
            return None
        if any(tensor is given for given in self._graph.inputs):
            return Box(f"i{tensor.name}", TERMINAL, "input", tensor.name)
        is_weight = tensor.shape is not None and len(tensor.shape) > 1
        if not is_weight or (node.op in QDQ_OPS and tensor is not node.inputs[0]):
            return None
        return Box(f"w{tensor.name}", WEIGHT, f"weights {_shape(tensor)}", tensor.name)


def _pruned(nodes: list[gs.Node], kept: Sequence[gs.Node]) -> list[gs.Node]:
    """The nodes without dead ends that need not be kept, as many as are too many, last first."""
    must = {id(node) for node in kept}
    left = {id(node): node for node in nodes}
    while len(left) > MOST_NODES:
        ends = [
            key
            for key, node in left.items()
            if key not in must and len({id(n) for n in _neighbours(node)} & set(left)) < 2
        ]
        if not ends:
            break
        del left[ends[-1]]
    return list(left.values())


def _neighbours(node: gs.Node) -> Iterator[gs.Node]:
    """Producers of what a node reads, then consumers of what it makes."""
    for tensor in node.inputs:
        source = producer(tensor)
        if source is not None:
            yield source
    for tensor in node.outputs:
        yield from tensor.outputs


def _node_box(node: gs.Node, *, key: str, is_focus: bool) -> Box:
    if node.op in QDQ_OPS:
        title = "Q" if node.op == "QuantizeLinear" else "DQ"
        return Box(key, QUANTIZER, f"{title}  {_scale(node)}", label(node), is_focus)
    return Box(key, OPERATOR, node.op, label(node), is_focus)


def _scale(node: gs.Node) -> str:
    """The scale of a quantizer in short."""
    values = constant_value(node.inputs[1]) if len(node.inputs) > 1 else None
    if values is None:
        return "scale computed"
    if prod(values.shape) == 1:
        return f"scale {float(np.ravel(values)[0]):.3g}"
    return f"{prod(values.shape)} scales"


def _shape(tensor: gs.Tensor) -> str:
    return "×".join(str(size) for size in tensor.shape or ())

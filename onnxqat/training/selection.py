"""Which parameters of a student may train: by name, and by what their layer does to the outputs."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnxqat.bridge import OnnxModule
from onnxqat.core.errors import ConfigError
from onnxqat.core.sensitivity import Sensitivity
from onnxqat.graph import Graph, qdq_pairs
from onnxqat.training.config import FinetuneConfig
from onnxqat.training.parameters import Kind
from onnxqat.training.roles import readers_of_parameters, roles


@dataclass(frozen=True)
class Selection:
    """What of a student may train; the rest is frozen. Nothing is left out where all is None."""

    nodes: frozenset[str] | None = None
    """The nodes whose parameters may train; None: all."""
    only: tuple[str, ...] = ()
    """Regular expressions: what none of them matches is frozen. Empty: all may train."""
    frozen: tuple[str, ...] = ()
    """Regular expressions: what one of them matches is frozen."""

    def allows(self, tensor: str, readers: Collection[str]) -> bool:
        """Whether the parameter of a tensor may train.

        Args:
            tensor: The initializer, or the tensor whose scale it is.
            readers: The nodes that read it. It may train for one of them, and is frozen by name
                where all of them are.
        """
        if self.nodes is not None and self.nodes.isdisjoint(readers):
            return False
        if self.only and not any(_matches(self.only, name) for name in (tensor, *readers)):
            return False
        by_reader = bool(readers) and all(_matches(self.frozen, name) for name in readers)
        return not (by_reader or _matches(self.frozen, tensor))

    @property
    def is_everything(self) -> bool:
        """Whether nothing is frozen."""
        return self == Selection()


EVERYTHING = Selection()


def select(student: OnnxModule, config: FinetuneConfig, found: Sensitivity | None) -> Selection:
    """What the config lets train.

    Args:
        student: The Q/DQ model.
        config: Patterns, and the share of the weights.
        found: The student's sensitivity; None where the config does not ask for it.

    Raises:
        ConfigError: A pattern is no regular expression, or matches no parameter and no node.
    """
    names = {*student.graph.tensors(), *(node.name for node in student.graph.nodes)}
    for pattern in (*config.train_only, *config.freeze):
        _check(pattern, names)
    nodes = None if found is None else _most_sensitive(student.graph, found, config.train_share)
    return Selection(nodes, config.train_only, config.freeze)


def readers_of_quantizers(student: OnnxModule) -> dict[str, tuple[str, ...]]:
    """Quantizer -> the nodes that read through it, or through one with the same scale."""
    quantizers = student.quantizers
    by_scale: dict[int, dict[str, None]] = {}
    for pair in qdq_pairs(student.graph):
        name = pair.output if pair.output in quantizers else pair.tensor
        if name in quantizers:
            nodes = by_scale.setdefault(id(quantizers[name].scale), {})
            nodes.update(dict.fromkeys(edge.node for edge in pair.consumers))
    return {name: tuple(by_scale[id(quantizers[name].scale)]) for name in quantizers}


def _most_sensitive(graph: Graph, found: Sensitivity, share: float) -> frozenset[str]:
    """The nodes that make most of the error, with at most this share of all weights, or one."""
    weights = _weights_of_nodes(graph)
    most = share * sum(weights.values())
    chosen: list[str] = []
    taken = 0
    for node in sorted(weights, key=lambda node: (-found.of_node(node), node)):
        if not chosen or taken + weights[node] <= most:
            chosen.append(node)
            taken += weights[node]
    return frozenset(chosen)


def _weights_of_nodes(graph: Graph) -> Mapping[str, int]:
    """Node -> how many weights it has."""
    kinds, readers = roles(graph), readers_of_parameters(graph)
    tensors = graph.tensors()
    sizes: dict[str, int] = {}
    for name, kind in kinds.items():
        for node in readers[name] if kind is Kind.WEIGHT else ():
            sizes[node] = sizes.get(node, 0) + int(tensors[name].values.size)
    return sizes


def _matches(patterns: Collection[str], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _check(pattern: str, names: Collection[str]) -> None:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"'{pattern}' is no regular expression: {error}") from error
    if not any(compiled.fullmatch(name) for name in names):
        raise ConfigError(
            f"pattern '{pattern}' matches no node and no weight of the model",
            fix="a pattern must match a whole name; `onnxqat sensitivity` lists them",
        )

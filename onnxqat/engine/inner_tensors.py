"""Makes the inner tensors of two models visible as outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxqat.engine.model_file import ModelFile, write_model
from onnxqat.graph import Graph


def shared_inner_tensors(reference: Graph, candidate: Graph) -> tuple[str, ...]:
    """Names of tensors inside both graphs, outputs left out, in the reference's order."""
    outputs = {tensor.name for tensor in (*reference.outputs, *candidate.outputs)}
    common = set(_produced(candidate)) - outputs
    return tuple(name for name in _produced(reference) if name in common)


def with_outputs(model: ModelFile, names: Sequence[str], folder: Path) -> Path:
    """A file of the model with more outputs, in `folder`; its own file without more names."""
    if not names:
        return model.path
    graph = model.graph.copy()
    produced = {tensor.name: tensor for node in graph.nodes for tensor in node.outputs}
    # ONNX Runtime infers the types of outputs that are declared without.
    graph.outputs.extend(produced[name] for name in names)
    return write_model(graph, folder)


def _produced(graph: Graph) -> list[str]:
    """What the nodes of the main graph compute, in their order."""
    return [t.name for node in graph.nodes for t in node.outputs if not t.is_empty()]

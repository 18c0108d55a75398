"""Makes the inner tensors of two models visible as outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from onnxqat.engine.model_file import read_structure, write_model


def shared_inner_tensors(reference: Path, candidate: Path) -> tuple[str, ...]:
    """Names of tensors inside both models, outputs left out, in the reference's order."""
    ours, theirs = (read_structure(path).graph for path in (reference, candidate))
    outputs = {value.name for value in (*ours.output, *theirs.output)}
    common = set(_produced(theirs)) - outputs
    return tuple(name for name in _produced(ours) if name in common)


def with_outputs(path: Path, names: Sequence[str], folder: Path) -> Path:
    """A copy of the model, in `folder`, with more outputs; the model itself without more names."""
    if not names:
        return path
    model = onnx.load(path)
    # ONNX Runtime infers the types of outputs that are declared without.
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return write_model(model, folder)


def _produced(graph: onnx.GraphProto) -> list[str]:
    """What the nodes of the main graph compute, in their order."""
    return [name for node in graph.node for name in node.output if name]

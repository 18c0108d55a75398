"""Any form of a model as a file, which is what the compiler and ONNX Runtime read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs

from onnxqat.core.precision import HEAVY_OPS
from onnxqat.graph import Graph, as_graph, save

Model: TypeAlias = str | os.PathLike[str] | onnx.ModelProto | gs.Graph


@dataclass(frozen=True)
class ModelFile:
    """A model that was read, and the file where it lies."""

    path: Path
    graph: Graph


def model_file(model: Model, folder: Path) -> ModelFile:
    """The model and its file: its own if it is a path, else one in `folder`, which is made.

    Raises:
        ModelError: The model cannot be read.
    """
    graph = as_graph(model)
    if isinstance(model, str | os.PathLike):
        return ModelFile(Path(model).resolve(), graph)
    return ModelFile(write_model(graph, folder), graph)


def write_model(graph: Graph, folder: Path) -> Path:
    """The path of the graph's file in `folder`, which is made."""
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    save(graph, path)
    return path


def heavy_nodes(model: Model) -> tuple[tuple[str, str], ...]:
    """Name and operator of each node that multiplies matrices, as a compiled plan names them.

    Raises:
        ModelError: The model cannot be read.
    """
    return tuple(
        (plan_name(node), node.op) for node in as_graph(model).nodes if node.op in HEAVY_OPS
    )


def plan_name(node: gs.Node) -> str:
    """The name that the compiler gives a node: its own, or one by its first output."""
    return str(node.name or f"node_of_{node.outputs[0].name}")

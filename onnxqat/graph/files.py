"""ONNX files: load and save, with external data, without half-written files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError

from onnxqat.core.errors import ModelError
from onnxqat.core.files import replacing
from onnxqat.graph.check import check_model
from onnxqat.graph.exporter import constants_of, export_model, tensor_proto
from onnxqat.graph.external import ExternalReader, ExternalWriter
from onnxqat.graph.graph import Graph
from onnxqat.graph.importer import import_model
from onnxqat.graph.stream import write_inline
from onnxqat.graph.wire import why_unreadable

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that protobuf reads or writes at most."""

EXTERNAL_FROM = PROTOBUF_LIMIT - 2**26
"""Bytes of weights from which they go into a file of their own; 64 MiB are for everything else."""

Model: TypeAlias = str | os.PathLike[str] | onnx.ModelProto | gs.Graph


def load(path: str | os.PathLike[str]) -> Graph:
    """The graph of an ONNX file that passes the ONNX checker; external data is mapped, not read.

    Raises:
        ModelError: No such file, not ONNX, truncated, rejected by the checker, or its external data
            is missing, too short, or outside the model's folder.
    """
    file = Path(path)
    try:
        model = _parse(file)
        check_model(model)
        return import_model(model, ExternalReader(file.parent))
    except ModelError as error:
        raise _at(error, file) from error.__cause__


def as_graph(model: Model) -> Graph:
    """The graph of a path, an `onnx.ModelProto` or a `gs.Graph`, none of which is changed.

    Raises:
        ModelError: As for `load`.
    """
    if isinstance(model, Graph):
        copy: Graph = model.copy()
        return copy
    if isinstance(model, gs.Graph):
        return import_model(export_model(model, tensor_proto))
    if isinstance(model, onnx.ModelProto):
        check_model(model)
        return import_model(model)
    return load(model)


def save(graph: gs.Graph, path: str | os.PathLike[str]) -> None:
    """Write an ONNX file, whole or not at all.

    The weights are written from where they lie, without another copy in memory. They go into
    `<path>.data` beside the file where they pass 2 GB, or did not lie in the file before either.

    Raises:
        ModelError: The disk is full, or writing fails.
        ConfigError: The folder is missing or cannot be written.
    """
    file = Path(path)
    try:
        if _goes_outside(graph):
            _save_external(graph, file)
        else:
            with replacing(file) as part, part.open("wb") as stream:
                write_inline(graph, stream)
    except OSError as error:
        raise ModelError(
            f"writing the model failed: {error.strerror or error}",
            at=f"file '{file}'",
            fix="make room on the disk, or choose another folder",
        ) from error


def _goes_outside(graph: gs.Graph) -> bool:
    if isinstance(graph, Graph) and graph.has_external_data:
        return True
    nbytes: int = sum(constant._values.nbytes for constant in constants_of(graph))
    return nbytes > EXTERNAL_FROM


def _save_external(graph: gs.Graph, file: Path) -> None:
    """The model that names the data file comes into place right behind it."""
    data = file.with_name(f"{file.name}.data")
    with replacing(file) as part, replacing(data) as data_part:
        with ExternalWriter(data_part, location=data.name) as writer:
            model = export_model(graph, writer.write)
        part.write_bytes(model.SerializeToString(deterministic=True))


def _parse(file: Path) -> onnx.ModelProto:
    try:
        if file.stat().st_size > PROTOBUF_LIMIT:
            raise ModelError(
                "the file is larger than 2 GiB, which protobuf cannot read",
                fix="save the model with its weights as external data",
            )
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"the model cannot be read: {error.strerror}", fix="give the path of an ONNX file"
        ) from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        is_model = model.ir_version > 0 and model.HasField("graph")
    except DecodeError:
        is_model = False
    if not is_model:
        problem, fix = why_unreadable(data)
        raise ModelError(problem, fix=fix)
    return model


def _at(error: ModelError, file: Path) -> ModelError:
    at = f"file '{file}'" if error.at is None else f"{error.at}, file '{file}'"
    return type(error)(error.problem, node=error.node, tensor=error.tensor, at=at, fix=error.fix)

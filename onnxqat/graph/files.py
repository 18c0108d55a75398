"""ONNX files: load and save, with external data, without half-written files."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError

from onnxqat.core.errors import ModelError
from onnxqat.graph.check import check_model
from onnxqat.graph.exporter import export_model, tensor_proto
from onnxqat.graph.external import ExternalReader, ExternalWriter
from onnxqat.graph.graph import Graph, tensors_of
from onnxqat.graph.importer import import_model
from onnxqat.graph.wire import why_unreadable

EXTERNAL_FROM = 2**31 - 2**20
"""Bytes from which the weights go into a file of their own: protobuf ends at 2 GiB, and what is not
weights needs some of them."""

Model: TypeAlias = str | os.PathLike[str] | onnx.ModelProto | gs.Graph


def load(path: str | os.PathLike[str]) -> Graph:
    """The graph of an ONNX file that passes the ONNX checker; external data is mapped, not read.

    Raises:
        ModelError: No such file, not ONNX, truncated, rejected by the checker, or its external data
            is missing, too short, or outside the model's folder.
    """
    file = Path(path)
    try:
        model = read_proto(file)
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


def read_proto(file: Path) -> onnx.ModelProto:
    """Parse an ONNX file; external data is not touched.

    Raises:
        ModelError: The file is missing, not ONNX or truncated.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"the model cannot be read: {error.strerror}",
            fix="give the path of an ONNX file",
        ) from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        problem, fix = why_unreadable(data)
        raise ModelError(problem, fix=fix) from error
    if not (model.ir_version and model.HasField("graph")):
        problem, fix = why_unreadable(data)
        raise ModelError(problem, fix=fix)
    return model


def save(graph: gs.Graph, path: str | os.PathLike[str]) -> None:
    """Write an ONNX file, whole or not at all.

    Weights go into `<path>.data` beside it where they pass 2 GB or lay outside the file before.

    Raises:
        ModelError: The folder is missing or cannot be written.
    """
    file = Path(path)
    nbytes = sum({id(t): t._values.nbytes for t in _constants(graph)}.values())
    external = nbytes > EXTERNAL_FROM or (isinstance(graph, Graph) and graph.has_external_data)
    try:
        if external:
            _save_external(graph, file)
        else:
            _replace(file, lambda part: part.write_bytes(_serialize(graph)))
    except OSError as error:
        raise ModelError(
            f"the model cannot be written: {error.strerror}",
            at=f"file '{file}'",
            fix="choose a folder that exists and that you may write to, with enough space",
        ) from error


def _constants(graph: gs.Graph) -> list[gs.Constant]:
    return [tensor for tensor in tensors_of(graph) if isinstance(tensor, gs.Constant)]


def _serialize(graph: gs.Graph) -> bytes:
    data: bytes = export_model(graph, tensor_proto).SerializeToString(deterministic=True)
    return data


def _save_external(graph: gs.Graph, file: Path) -> None:
    """The data file is in place before the model that names it."""
    data = file.with_name(file.name + ".data")

    def write_both(part: Path) -> None:
        def write_data(data_part: Path) -> None:
            with ExternalWriter(data_part, location=data.name) as writer:
                model = export_model(graph, writer.write)
            part.write_bytes(model.SerializeToString(deterministic=True))

        _replace(data, write_data)

    _replace(file, write_both)


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file in the same folder, then give it the file's name."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(file)
    finally:
        with suppress(OSError):
            part.unlink()


def _at(error: ModelError, file: Path) -> ModelError:
    at = f"file '{file}'" if error.at is None else f"{error.at}, file '{file}'"
    return type(error)(error.problem, node=error.node, tensor=error.tensor, at=at, fix=error.fix)

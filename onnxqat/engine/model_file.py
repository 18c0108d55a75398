"""Any form of a model as a file, which is what the compiler and ONNX Runtime read."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs

from onnxqat.core.errors import ModelError
from onnxqat.core.signature import InputSpec

Model: TypeAlias = "str | Path | onnx.ModelProto | gs.Graph"

_PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes that certainly fit into one protobuf message (2 GB) with room for the rest of the file."""


def model_file(model: Model, folder: Path) -> Path:
    """The path of the model: its own if it is one, else of a copy written to `folder`."""
    if isinstance(model, str | Path):
        return Path(model).resolve()
    return write_model(gs.export_onnx(model) if isinstance(model, gs.Graph) else model, folder)


def write_model(model: onnx.ModelProto, folder: Path) -> Path:
    """The path of the model in `folder`, which is made; large weights lie beside it."""
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=model.ByteSize() > _PROTOBUF_LIMIT)
    return path


def read_structure(path: Path) -> onnx.ModelProto:
    """The model of a file, without weights that lie beside it.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError derives from nothing narrower
        raise ModelError(f"cannot be read as an ONNX model: {error}", at=str(path)) from error


def input_specs(model: onnx.ModelProto) -> tuple[InputSpec, ...]:
    """The inputs that a caller feeds: initializers that old exporters list are none."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(_spec(value) for value in model.graph.input if value.name not in constants)


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return InputSpec(value.name, dtype, tuple(_size(dim) for dim in tensor.shape.dim))


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None

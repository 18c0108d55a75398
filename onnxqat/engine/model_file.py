"""Any form of a model as a file, which is what the compiler reads."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import onnx
import onnx_graphsurgeon as gs

from onnxqat.core.errors import ModelError
from onnxqat.core.signature import InputSpec

Model: TypeAlias = "str | Path | onnx.ModelProto | gs.Graph"


def model_file(model: Model, folder: Path) -> Path:
    """The path of the model: its own if it is one, else of a copy written to `folder`."""
    if isinstance(model, str | Path):
        return Path(model).resolve()
    proto = gs.export_onnx(model) if isinstance(model, gs.Graph) else model
    path = folder / "model.onnx"
    onnx.save(proto, path, save_as_external_data=proto.ByteSize() > 2**31 - 2**20)
    return path


def input_specs(path: Path) -> tuple[InputSpec, ...]:
    """The inputs that a caller feeds: initializers that old exporters list are none."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read as an ONNX model: {error}", at=str(path)) from error
    constants = {tensor.name for tensor in graph.initializer}
    return tuple(_spec(value) for value in graph.input if value.name not in constants)


def _spec(value: onnx.ValueInfoProto) -> InputSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return InputSpec(value.name, dtype, tuple(_size(dim) for dim in tensor.shape.dim))


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None

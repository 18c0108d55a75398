"""Write a model with the weights inside, straight from the arrays.

`SerializeToString` would take two more copies of them: one in the proto, one in the bytes. A nested
message may come in pieces, and its fields in any order, so that the graph is written without its
initializers first and these one by one behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxqat.graph.exporter import export_model, tensor_proto
from onnxqat.graph.graph import carried
from onnxqat.graph.wire import bytes_header

PACKED_BITS = {
    getattr(TensorProto, name): bits
    for name, bits in {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}.items()
    if hasattr(TensorProto, name)  # onnx learnt them one by one
}
"""Types of which several elements share a byte, and an element's bits."""

_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


def write_inline(graph: gs.Graph, stream: BinaryIO) -> None:
    """Write the model to a stream; the same graph gives the same bytes."""
    constants: list[gs.Constant] = []
    model = export_model(graph, constants.append)
    body = model.graph.SerializeToString(deterministic=True)
    model.ClearField("graph")
    stream.write(model.SerializeToString(deterministic=True))
    sizes = [_nbytes(constant) for constant in constants]
    total = sum(len(bytes_header(_INITIALIZER, size)) + size for size in sizes)
    stream.write(bytes_header(_GRAPH, len(body) + total))
    stream.write(body)
    for constant, size in zip(constants, sizes, strict=True):
        stream.write(bytes_header(_INITIALIZER, size))
        for piece in _pieces(constant):
            stream.write(piece)


def raw_bytes(constant: gs.Constant) -> NDArray[np.uint8] | None:
    """The values as `raw_data` wants them, not copied if they lie so already.

    None for types that are packed, or are no numbers: `tensor_proto` writes those.
    """
    values = constant._values
    if not isinstance(values, np.ndarray) or values.dtype.kind in "OSUM":
        return None
    if helper.np_dtype_to_tensor_dtype(values.dtype) in PACKED_BITS:
        return None
    if values.dtype.kind in "fiuc":
        values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def tensor_head(constant: gs.Constant) -> TensorProto:
    """The proto of a constant without its values."""
    head = TensorProto(
        name=constant.name,
        data_type=helper.np_dtype_to_tensor_dtype(constant.dtype),
        dims=constant.shape,
    )
    shell = carried(constant)
    if isinstance(shell, TensorProto):
        head.MergeFrom(TensorProto(doc_string=shell.doc_string))
        head.metadata_props.extend(shell.metadata_props)
    return head


def _nbytes(constant: gs.Constant) -> int:
    if raw_bytes(constant) is None:
        return tensor_proto(constant).ByteSize()
    size = constant._values.nbytes
    return tensor_head(constant).ByteSize() + len(bytes_header(_RAW_DATA, size)) + int(size)


def _pieces(constant: gs.Constant) -> Iterator[Any]:
    raw = raw_bytes(constant)
    if raw is None:
        yield tensor_proto(constant).SerializeToString(deterministic=True)
        return
    yield tensor_head(constant).SerializeToString(deterministic=True)
    yield bytes_header(_RAW_DATA, raw.nbytes)
    yield raw.data

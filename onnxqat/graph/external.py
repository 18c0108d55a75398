"""Weights in files beside the model: mapped when read, streamed when written.

Source: https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

import mmap
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxqat.core.engine_plan import dense_bytes
from onnxqat.core.errors import ModelError
from onnxqat.graph.exporter import tensor_proto
from onnxqat.graph.importer import read_inline
from onnxqat.graph.stream import PACKED_BITS, raw_bytes, tensor_head

ALIGNMENT = 4096
"""Tensors start at multiples of a memory page, so that runtimes can map them."""

INLINE_BELOW = 1024
"""Bytes under which a tensor stays in the model file: shapes and scales are wanted there."""


class ExternalReader:
    """Reads tensors of one model, mapping the external ones into memory."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of the model, which no external path may leave."""
        self._folder = folder

    def __call__(self, tensor: TensorProto) -> NDArray[Any]:
        """The array of a tensor, read-only; pages of an external one are read when first used.

        Raises:
            ModelError: The external file is missing, too short, or outside the folder.
        """
        if tensor.data_location != TensorProto.EXTERNAL:
            return read_inline(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = self._file(tensor.name, entries.get("location", ""))
        return _map(tensor, file, entries)

    def _file(self, tensor: str, location: str) -> Path:
        file = self._folder / location
        leaves = (
            not location
            or ".." in PurePosixPath(location.replace("\\", "/")).parts
            or PurePosixPath(location).is_absolute()
            or PureWindowsPath(location).is_absolute()
            or not file.resolve().is_relative_to(self._folder.resolve())
        )
        if leaves:
            raise ModelError(
                f"the external data path '{location}' leaves the model's folder",
                tensor=tensor,
                fix="put the data file beside the model and name it by a relative path",
            )
        if not file.is_file():
            raise ModelError(
                f"the external data file '{location}' is missing",
                tensor=tensor,
                fix=f"put it into {self._folder.resolve()}",
            )
        return file


def _map(tensor: TensorProto, file: Path, entries: dict[str, str]) -> NDArray[Any]:
    shape, dtype = tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type)
    offset = _offset(tensor, file, entries)
    if tensor.data_type in PACKED_BITS:
        return _unpack(tensor, file, offset)
    if prod(shape) == 0:
        return np.zeros(shape, dtype)
    if offset % dtype.itemsize:  # nothing promises alignment, and torch wants it
        flat = np.fromfile(file, dtype, prod(shape), offset=offset)
        flat.flags.writeable = False
        return flat.reshape(shape)
    return np.memmap(file, dtype, "r", offset, shape)


def _offset(tensor: TensorProto, file: Path, entries: dict[str, str]) -> int:
    """Where the tensor begins in the file, which holds all of it.

    Raises:
        ModelError: It does not.
    """
    needed, size = _nbytes(tensor), file.stat().st_size
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or needed)
    except ValueError:
        offset, length = -1, -1
    if length != needed or offset < 0 or offset + needed > size:
        raise ModelError(
            f"external data does not fit: bytes {offset} to {offset + length} of '{file.name}' "
            f"({size} bytes) for a tensor of {needed} bytes",
            tensor=tensor.name,
            fix="copy the data file again (it may be truncated), or export the model again",
        )
    return offset


def _nbytes(tensor: TensorProto) -> int:
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    bits = PACKED_BITS.get(tensor.data_type, 8 * dtype.itemsize)
    return dense_bytes(tuple(tensor.dims), bits)


def _unpack(tensor: TensorProto, file: Path, offset: int) -> NDArray[Any]:
    """Elements that share a byte: numpy has no such layout, so this tensor is read now."""
    with file.open("rb") as stream:
        stream.seek(offset)
        inline = TensorProto(data_type=tensor.data_type, dims=tensor.dims, name=tensor.name)
        inline.raw_data = stream.read(_nbytes(tensor))
    return read_inline(inline)


class ExternalWriter:
    """Appends the values of big tensors to one data file."""

    def __init__(self, file: Path, *, location: str) -> None:
        """Take the file to write, and the name by which the model will know it."""
        self._file = file
        self._location = location

    def __enter__(self) -> ExternalWriter:
        self._stream: BinaryIO = self._file.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def write(self, constant: gs.Constant) -> TensorProto:
        """The proto of a constant: small ones whole, of big ones the place in the data file."""
        raw = raw_bytes(constant)
        if raw is None or raw.nbytes < INLINE_BELOW:
            return tensor_proto(constant)
        self._stream.write(b"\0" * (-self._stream.tell() % ALIGNMENT))
        proto = tensor_head(constant)
        proto.data_location = TensorProto.EXTERNAL
        place = {"location": self._location, "offset": self._stream.tell(), "length": raw.nbytes}
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        raw.tofile(self._stream)
        _release(constant._values)
        return proto


def _release(values: NDArray[Any]) -> None:
    """Let go of a mapped tensor's pages, which count as memory in use: the next read maps anew."""
    mapping = getattr(values, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)

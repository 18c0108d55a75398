"""As much of protobuf's wire format as it takes to write weights without copies, and to say why a
file cannot be read.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import onnx

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_MODEL_FIELDS = {field.number: field.name for field in onnx.ModelProto.DESCRIPTOR.fields}
_EXPORT = "give the path of an .onnx file"
_KNOWN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself", "run: git lfs pull"),
    (b"PK\x03\x04", "a zip archive, as torch.save writes", "export the model to ONNX"),
    (b"\x89PNG", "a PNG image", _EXPORT),
    (b"\xff\xd8\xff", "a JPEG image", _EXPORT),
    (b"\x1f\x8b", "a gzip file", "unpack it"),
    (b"<", "a web page or XML file", "download the file itself, not its page"),
    (b"ftrt", "a TensorRT engine", "give the ONNX file that it was built from"),
)


def bytes_header(field: int, length: int) -> bytes:
    """What stands before the bytes of a nested message or bytes field."""
    return varint(field << 3 | BYTES) + varint(length)


def varint(value: int) -> bytes:
    """An unsigned integer, seven bits a byte, lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def why_unreadable(data: bytes) -> tuple[str, str]:
    """The problem and the fix for bytes that are no ONNX model."""
    if not data:
        return "the file is empty, not an ONNX model", _EXPORT
    for magic, what, fix in _KNOWN:
        if data.startswith(magic):
            return f"the file is {what}", fix
    if data[4:8] == b"ORTM":
        return "the file is in ONNX Runtime's own format", "give the ONNX file it was made of"
    return _walk(data)


def _walk(data: bytes) -> tuple[str, str]:
    """Follow the outermost fields: a model has only known ones, and a whole file ends with one."""
    position = 0
    while position < len(data):
        key, position = _read_varint(data, position)
        name = _MODEL_FIELDS.get(key >> 3)
        end = _end_of_value(data, position, wire_type=key & 7)
        if name is None or end is None:
            return "the file is not an ONNX model", _EXPORT
        if end > len(data):
            return (
                f"the file is truncated, or no ONNX model: its field '{name}' ends at byte {end}, "
                f"and the file has {len(data)} bytes",
                "download or export it again",
            )
        position = end
    return (
        "the file is damaged, or no ONNX model with a graph: its outermost fields are whole, but "
        "not what is in them",
        "download or export it again; protobuf also ends at 100 nested messages",
    )


def _end_of_value(data: bytes, position: int, *, wire_type: int) -> int | None:
    if wire_type == VARINT:
        return _read_varint(data, position)[1]
    if wire_type == BYTES:
        length, start = _read_varint(data, position)
        return start + length
    return {FIXED64: position + 8, FIXED32: position + 4}.get(wire_type)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A varint and the position behind it; past the end when the data ends within it."""
    value = shift = 0
    while position < len(data):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return value, position
    return value, len(data) + 1

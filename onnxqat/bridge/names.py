"""ONNX tensor names as torch parameter names, and back.

Torch forbids '.' and the empty name, and refuses names that a module already uses for something
else ('forward', 'training', …). Percent-encoding is reversible and leaves most names as they are.
"""

from __future__ import annotations

import re

from torch import nn

_ESCAPED = re.compile("%([0-9A-F]{2})")
_TAKEN = frozenset(dir(nn.Module())) | {
    "codes",
    "fallback",
    "findings",
    "get_tensor",
    "graph",
    "input_names",
    "notes",
    "onnx_name",
    "output_names",
    "quantizers",
    "saves_memory",
    "sources",
    "switched",
    "walk",
    "with_outputs",
}
"""Attributes of torch's modules and of `OnnxModule`."""
EMPTY = "%"


def torch_name(onnx_name: str) -> str:
    """The name under which torch keeps an ONNX tensor: 'fc.weight' becomes 'fc%2Eweight'."""
    if not onnx_name:
        return EMPTY
    escaped = onnx_name.replace("%", "%25").replace(".", "%2E")
    if escaped in _TAKEN or escaped.startswith("_"):
        return f"%{ord(escaped[0]):02X}{escaped[1:]}"
    return escaped


def onnx_name(torch_name: str) -> str:
    """The ONNX name that `torch_name` was made of."""
    if torch_name == EMPTY:
        return ""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), torch_name)

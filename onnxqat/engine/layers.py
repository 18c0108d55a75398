"""Reads a TensorRT compiler's layer list: the log of TensorRT-RTX, the inspector of TensorRT.

Tolerant: the lists are not a documented interface, so whatever is not understood is kept and
reported in `EnginePlan.unread`, never dropped and never an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from onnxqat.core.engine_plan import EngineLayer, EnginePlan, TensorView, dense_bytes

DTYPE_BITS = {
    "Float": 32,
    "Half": 16,
    "BFloat16": 16,
    "FP8": 8,
    "FP4": 4,
    "E8M0": 8,
    "Int8": 8,
    "UInt8": 8,
    "Int4": 4,
    "Int32": 32,
    "Int64": 64,
    "Bool": 8,
}
"""Bits of an element of each datatype that the compilers print."""

_RTX_KINDS = frozenset(
    {
        "add",
        "avgpool",
        "cjmp",
        "correlation",
        "deconv",
        "gemm",
        "kgen",
        "maxpool",
        "memset",
        "runtime_function",
        "runtime_fusion",
        "shape_call",
        "signal",
        "wait",
    }
)
"""The kinds of layer that TensorRT-RTX 1.7 was seen to list; another is kept, and reported."""

_SYNONYMS = {dtype.lower(): dtype for dtype in DTYPE_BITS} | {
    "fp32": "Float",
    "fp16": "Half",
    "bf16": "BFloat16",
}
"""Lower-case words for a datatype in the inspector's format descriptions."""

_LAYER = re.compile(
    r"^\s*(?:\[\w\] )?Name: (?P<name>.*), LayerType: (?P<kind>[^,]*), "
    r"Inputs: \[(?P<inputs>.*?)\], (?:Constants: \[(?P<constants>.*?)\], )?"
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<tactic>[^,]*), .*?Metadata: (?P<metadata>.*)$"
)
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[([-\d,]*)\],.*?Datatype: (\w+)")
_METADATA = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]?\[ONNX Layer: |\s*$)")
"""Node names are parted by nothing, or by an ASCII record (1e) or unit (1f) separator."""


def parse_log(log: str, *, target: str) -> EnginePlan:
    """The plan in the log of a verbose, detailed TensorRT-RTX build for `target` (as SM89)."""
    layers: list[EngineLayer] = []
    unread: list[str] = []
    for line in log.split("\n"):  # splitlines() would cut at the separators of metadata
        if ", LayerType: " not in line:
            continue
        match = _LAYER.match(line)
        if match is None:
            unread.append(line.strip())
        else:
            layers.append(_layer(match))
    unread += sorted({f"kind {x.kind}" for x in layers if x.kind not in _RTX_KINDS})
    return _plan("rtx", target, layers, unread)


def parse_inspector(text: str, *, target: str) -> EnginePlan:
    """The plan in the JSON of TensorRT's engine inspector (detailed verbosity)."""
    layers: list[EngineLayer] = []
    unread: list[str] = []
    for entry in json.loads(text).get("Layers", []):
        if isinstance(entry, dict):
            layers.append(_inspected_layer(entry))
        else:
            unread.append(str(entry))
    return _plan("tensorrt", target, layers, unread)


def _plan(backend: str, target: str, layers: list[EngineLayer], unread: list[str]) -> EnginePlan:
    views = (
        view
        for layer in layers
        for view in (*layer.inputs, *layer.constants, *layer.outputs)
        if view.dtype not in DTYPE_BITS
    )
    unread += sorted({f"datatype {view.dtype}" for view in views})
    return EnginePlan(backend, target, tuple(layers), tuple(unread))


def _layer(match: re.Match[str]) -> EngineLayer:
    return EngineLayer(
        name=match["name"],
        kind=match["kind"],
        inputs=tuple(_views(match["inputs"])),
        constants=tuple(_views(match["constants"] or "")),
        outputs=tuple(_views(match["outputs"])),
        onnx_nodes=_nodes(match["metadata"]),
        tactic=match["tactic"],
    )


def _views(text: str) -> Iterator[TensorView]:
    for name, dimensions, dtype in _TENSOR.findall(text):
        shape = tuple(int(size) for size in dimensions.split(",") if size)
        yield _view(name, shape, dtype)


def _view(name: str, shape: tuple[int, ...], dtype: str) -> TensorView:
    """A dynamic dimension (−1) counts as 1: the bytes are those of one item."""
    known = tuple(1 if size < 0 else size for size in shape)
    return TensorView(name, shape, dtype, dense_bytes(known, DTYPE_BITS.get(dtype, 0)))


def _nodes(metadata: str) -> tuple[str, ...]:
    """ONNX node names, in the compiler's order, each once."""
    return tuple(dict.fromkeys(_METADATA.findall(metadata)))


def _inspected_layer(entry: dict[str, Any]) -> EngineLayer:
    return EngineLayer(
        name=str(entry.get("Name", "")),
        kind=str(entry.get("ParameterType") or entry.get("LayerType", "")),
        inputs=tuple(_inspected_view(view) for view in entry.get("Inputs", [])),
        constants=tuple(_inspected_constants(entry)),
        outputs=tuple(_inspected_view(view) for view in entry.get("Outputs", [])),
        onnx_nodes=_nodes(str(entry.get("Metadata", ""))),
        tactic=str(entry.get("TacticName", "")),
    )


def _inspected_constants(entry: dict[str, Any]) -> Iterator[TensorView]:
    """Compiled blocks list `Constants`; convolutions say `Weights`: type and count."""
    yield from (_inspected_view(view) for view in entry.get("Constants", []))
    weights = entry.get("Weights")
    if isinstance(weights, dict) and weights.get("Count"):
        yield _view("Weights", (int(weights["Count"]),), _dtype_in(str(weights.get("Type", ""))))


def _inspected_view(view: dict[str, Any]) -> TensorView:
    """A tensor; its datatype stands alone, or is a word of the format in older versions."""
    words = view.get("Datatype") or view.get("Format/Datatype") or view.get("Format") or ""
    shape = tuple(int(size) for size in view.get("Dimensions", []))
    return _view(str(view.get("Name", "")), shape, _dtype_in(str(words)))


def _dtype_in(words: str) -> str:
    """`Row major linear FP32` -> `Float`; the words themselves where none is a datatype."""
    known = (_SYNONYMS.get(word.strip(".,").lower()) for word in words.split())
    return next((dtype for dtype in known if dtype is not None), words)

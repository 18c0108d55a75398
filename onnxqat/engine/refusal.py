"""Turns a TensorRT compiler's refusal into an error that names the node and the fix."""

from __future__ import annotations

import re

from onnxqat.core.errors import BuildError

_PARSER = re.compile(
    r"^\[E\] In node -?\d+ with name: (?P<node>.*?) and operator: (?P<op>\S+) "
    r"\((?P<check>[^)]*)\): (?P<problem>.*)$",
    re.MULTILINE,
)
_ERROR = re.compile(r"^\[E\] (.*(?:\n    .*)*)", re.MULTILINE)
_NODE = re.compile(r"[Ff]or node (?P<node>\S.*?)(?:\.| \(|$)", re.MULTILINE)

_FIXES: tuple[tuple[str, str], ...] = (
    (
        r"UINT8|zero.?point",
        "TensorRT takes symmetric INT8 only: write int8 codes with zero point 0",
    ),
    (
        r"INT32|DataType::kINT32",
        "an int32 bias behind DequantizeLinear is refused: keep the bias in float",
    ),
    (r"[Ss]cale", "scales must be positive constants: calibrate again, with a scale floor"),
    (
        r"Could not find any implementation",
        "take the Q/DQ off that node: exclude it from quantization",
    ),
    (r"[Pp]lugin|No importer|UNSUPPORTED_NODE", "TensorRT has no such operator: replace the node"),
)
"""What the message says -> what to do about it; the first that matches."""

_DEFAULT_FIX = (
    "compile the float model: if that fails too, TensorRT cannot compile this network; "
    "else exclude nodes from quantization until it compiles"
)


def refusal(log: str) -> BuildError:
    """The error that the compiler's log tells, in the compiler's own words."""
    parsed = _PARSER.search(log)
    if parsed is not None:
        return _error(parsed["problem"].strip(), node=parsed["node"], op=parsed["op"])
    errors = _ERROR.findall(log)
    message = errors[-1].strip() if errors else _last_words(log)
    place = _NODE.search(message)
    return _error(message, node=place["node"] if place is not None else None)


def _error(message: str, *, node: str | None, op: str | None = None) -> BuildError:
    subject = f"TensorRT refuses this {op}" if op is not None else "TensorRT refuses the model"
    fix = next((fix for pattern, fix in _FIXES if re.search(pattern, message)), _DEFAULT_FIX)
    return BuildError(f"{subject}: {message}", node=node, fix=fix)


def _last_words(log: str) -> str:
    return next((line for line in reversed(log.splitlines()) if line.strip()), "it said nothing")

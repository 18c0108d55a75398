"""Turns a TensorRT compiler's refusal into an error that names the node and the fix."""

from __future__ import annotations

import re

from onnxqat.core.errors import BuildError

_PARSER = re.compile(
    r"^\[E\] In node \d+ with name: (?P<node>.*?) and operator: (?P<op>\S*) "
    r"\(\w+\): (?P<problem>\w+: .*(?:\n    .*)*)",
    re.MULTILINE,
)
_PARSED_OUTPUT = re.compile(r'While parsing node number \d+ \[\S+ -> "(?P<output>[^"]*)"')
_ERROR = re.compile(r"^\[E\] (.*(?:\n    .*)*)", re.MULTILINE)
_NODE = re.compile(r"for node (?P<node>\{[^}]*\}|\S+?)[.,)]*(?:\s|$)")

_NOISE = "catchCudaError"
"""Marks the complaints about the absent GPU that follow each real error."""

_FIXES: tuple[tuple[str, str], ...] = (
    (
        r"[Zz]ero.?point|type of UINT8",
        "TensorRT takes symmetric INT8 only: write int8 codes with zero point 0",
    ),
    (
        r"input has type Int32",
        "keep the bias in float: TensorRT refuses an int32 bias behind DequantizeLinear",
    ),
    (
        r"number of scales is not equal",
        "write one scale for each channel along `axis`, or a single scalar scale",
    ),
    (r"Scale coefficients", "calibrate again with a scale floor: every scale must be positive"),
    (
        r"QuantizeLinear.*is_constant|CHECK\(is_constant",
        "make the scales and zero points initializers: they must be known at build time",
    ),
    (
        r"(MatMulInteger|ConvInteger|QLinear\w+|DynamicQuantizeLinear): ",
        "TensorRT reads Q/DQ pairs only: quantize the float model again in the QDQ format",
    ),
    (
        r"HW-specific datatypes: fp8",
        "compile for a GPU that computes FP8: SM89 (Ada) or later; or quantize to int8",
    ),
    (
        r"dtype == W\.type\(\)",
        "quantize activations to int8: 4-bit ones (as of format w4a4) are a simulation that "
        "TensorRT has no kernel for",
    ),
    (r"implementation", "exclude that node from quantization (TensorRT has no kernel for it)"),
    (
        r"Failed to import initializer",
        "store the tensor in a type that TensorRT reads: int8, int32, float16 or float32",
    ),
    (r"Plugin not found|UNSUPPORTED_NODE", "replace the operator by ones that TensorRT has"),
)
"""What the message says -> what to do about it; the first that matches."""

_DEFAULT_FIX = (
    "compile the float model: if that fails too, TensorRT cannot compile this network; "
    "else exclude nodes from quantization until it compiles"
)

CRASH_FIX = (
    "look at the scales with `onnxqat audit`: one that is no constant crashes the compiler; "
    "if they are clean and the float model crashes it too, report it to NVIDIA"
)


def refusal(log: str) -> BuildError:
    """The error that the compiler's log tells, in the compiler's own words."""
    parsed = _PARSER.search(log)
    if parsed is not None and parsed["op"]:
        output = _PARSED_OUTPUT.search(log)
        return _error(
            f"TensorRT refuses this {parsed['op']}: {_real(parsed['problem'])}",
            node=parsed["node"] or None,
            tensor=output["output"] if output is not None and not parsed["node"] else None,
        )
    errors = [error for error in _ERROR.findall(log) if _NOISE not in error]
    message = _real(errors[-1]) if errors else _last_words(log)
    place = _NODE.search(message)
    node = place["node"] if place is not None else None
    return _error(f"TensorRT refuses the model: {message}", node=node)


def _error(problem: str, *, node: str | None, tensor: str | None = None) -> BuildError:
    fix = next((fix for pattern, fix in _FIXES if re.search(pattern, problem)), _DEFAULT_FIX)
    return BuildError(problem, node=node, tensor=tensor, fix=fix)


def _real(message: str) -> str:
    """One line without the noise."""
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line for line in lines if line and _NOISE not in line)


def _last_words(log: str) -> str:
    return next((line for line in reversed(log.splitlines()) if line.strip()), "it said nothing")

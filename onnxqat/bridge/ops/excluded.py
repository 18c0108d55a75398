"""ONNX operators that have no torch function on purpose, with the reason."""

from __future__ import annotations

EXCLUDED: dict[str, str] = {
    "ImageDecoder": "decodes image files: that belongs to loading data, before the model",
    "RegexFullMatch": "RE2 patterns have no safe counterpart in Python: its own engine can take "
    "exponential time on a pattern, and models are untrusted input",
}
"""Operator of ONNX's default domain -> why none of its versions is registered."""

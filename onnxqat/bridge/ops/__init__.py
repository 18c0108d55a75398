"""Torch implementations of ONNX operators, in families."""

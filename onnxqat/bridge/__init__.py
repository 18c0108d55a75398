"""ONNX to torch and back."""

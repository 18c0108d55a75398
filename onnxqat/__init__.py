"""Quantization-aware training of ONNX files for TensorRT."""

"""ONNX graphs through onnx-graphsurgeon."""

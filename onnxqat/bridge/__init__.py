"""ONNX to torch and back."""

from onnxqat.bridge.allocator import keep_freed_memory
from onnxqat.bridge.fake_quant import FakeQuantize
from onnxqat.bridge.fallback import Fallback
from onnxqat.bridge.module import OnnxModule, to_torch
from onnxqat.bridge.names import onnx_name, torch_name
from onnxqat.bridge.write_back import write_back

__all__ = [
    "FakeQuantize",
    "Fallback",
    "OnnxModule",
    "keep_freed_memory",
    "onnx_name",
    "to_torch",
    "torch_name",
    "write_back",
]

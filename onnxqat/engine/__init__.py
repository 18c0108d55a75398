"""The runtimes: TensorRT's compiler and ONNX Runtime, both through Polygraphy."""

from onnxqat.engine.build import Built, build
from onnxqat.engine.compare import compare
from onnxqat.engine.model_file import heavy_nodes
from onnxqat.engine.profiles import ShapeRange

__all__ = ["Built", "ShapeRange", "build", "compare", "heavy_nodes"]

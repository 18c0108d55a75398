"""ONNX graphs through onnx-graphsurgeon."""

from onnxqat.graph.diff import structural_diff
from onnxqat.graph.exporter import to_model
from onnxqat.graph.extract import extract
from onnxqat.graph.files import as_graph, load, save
from onnxqat.graph.graph import Graph
from onnxqat.graph.insert import insert
from onnxqat.graph.qdq_pairs import QdqPair, qdq_pairs

__all__ = [
    "Graph", "QdqPair", "as_graph", "extract", "insert", "load", "qdq_pairs", "save",
    "structural_diff", "to_model",
]  # fmt: skip

"""ONNX graphs through onnx-graphsurgeon: load and save, prepare, insert Q/DQ and read it back."""

from onnxqat.graph.change import Change
from onnxqat.graph.diff import structural_diff
from onnxqat.graph.exporter import to_model
from onnxqat.graph.extract import extract
from onnxqat.graph.files import as_graph, load, save
from onnxqat.graph.graph import Graph
from onnxqat.graph.insert import insert
from onnxqat.graph.prepare import prepare
from onnxqat.graph.qdq_pairs import QdqPair, qdq_pairs
from onnxqat.graph.query import input_specs

__all__ = [
    "Change", "Graph", "QdqPair", "as_graph", "extract", "input_specs", "insert", "load", "prepare",
    "qdq_pairs", "save", "structural_diff", "to_model",
]  # fmt: skip

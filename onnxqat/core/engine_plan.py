"""What the TensorRT compiler made of a file: its layers, their datatypes and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod


class Precision(Enum):
    """The type of the operands that a kernel works on."""

    INT8 = "INT8"
    FP8 = "FP8"
    INT4 = "INT4"
    FP4 = "FP4"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    OTHER = "other"
    """A type that no matrix multiplication here is known to use."""
    ABSENT = "absent"
    """No compiled layer names the node: the compiler folded it away, or renamed it."""


class Passage(Enum):
    """How a tensor with Q/DQ gets from the kernel that computes it to a node that reads it."""

    QUANTIZED = "quantized"
    """Through memory in its quantized type: what Q/DQ is for."""
    INSIDE = "inside"
    """Within one kernel, which quantizes and dequantizes it: the rounding, and no bytes saved."""
    FLOAT = "float"
    """Through memory in float: dequantized where it was computed. The rounding for nothing."""
    ABSENT = "absent"
    """No compiled layer names the pair: it and the next, behind a move, cancelled each other."""


@dataclass(frozen=True)
class TensorView:
    """A tensor as one compiled layer reads or writes it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As the compiler prints it: Int8, Float, Half, FP8, Int32, Bool, …"""
    bytes: int


@dataclass(frozen=True)
class EngineLayer:
    """One compiled layer (kernel)."""

    name: str
    kind: str
    """The compiler's own word: correlation, kgen, gemm, …"""
    inputs: tuple[TensorView, ...]
    constants: tuple[TensorView, ...]
    outputs: tuple[TensorView, ...]
    onnx_nodes: tuple[str, ...]
    """Names of the ONNX nodes that the layer was made of."""
    tactic: str = ""
    """The kernel's own name, which tells the steps that were fused into it."""

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations read and written, constants not counted.

        A tensor that the kernel takes as two arguments, as a Concat's part and as an Add's branch,
        is read once.
        """
        read = {view.name: view for view in self.inputs}.values()
        return sum(view.bytes for view in (*read, *self.outputs))


@dataclass(frozen=True)
class NodePrecision:
    """What one ONNX node was compiled to."""

    node: str
    op: str
    precision: Precision
    layer: str | None
    """Name of the compiled layer that does its work; None where no layer names the node."""
    layers: tuple[str, ...] = ()
    """Names of all compiled layers that name the node, its epilogue's among them."""


@dataclass(frozen=True)
class QdqEdge:
    """A Q/DQ pair on an activation, as one node reads it, and what became of it."""

    tensor: str
    """What the pair quantizes."""
    q_node: str | None
    """None where the codes come from no QuantizeLinear."""
    dq_node: str
    reader: str
    """The ONNX node that reads what DQ gives."""
    passage: Passage = Passage.ABSENT


@dataclass(frozen=True)
class Crossing:
    """A tensor that goes through memory, from kernel to kernel, or in or out of the engine."""

    view: TensorView
    """As it is written; as it is read where it comes from outside."""
    writers: tuple[str, ...]
    """Names of layers; none for an input of the engine, several where each writes a part."""
    readers: tuple[str, ...]
    """Names of layers; none for an output of the engine."""


@dataclass(frozen=True)
class EnginePlan:
    """The layers of a compiled engine, in execution order, and what the ONNX nodes became."""

    backend: str
    """`rtx` or `tensorrt`."""
    target: str
    """What it was compiled for, as `SM89`."""
    layers: tuple[EngineLayer, ...]
    unread: tuple[str, ...] = ()
    """What the reader did not understand of the compiler's list: the bytes may miss these."""
    nodes: tuple[NodePrecision, ...] = ()
    """Each Conv, ConvTranspose, Gemm, MatMul, Add, Mul and pool of the file, in its order."""
    qdq: tuple[QdqEdge, ...] = ()
    """Each edge behind a Q/DQ pair on an activation, in the file's order."""
    qdq_layers: tuple[str, ...] = ()
    """Names of the layers that do nothing but quantize or dequantize, and move what they do."""

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations that all layers read and write."""
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def constant_bytes(self) -> int:
        """Bytes of weights, biases and scales that all layers read."""
        return sum(view.bytes for layer in self.layers for view in layer.constants)

    @property
    def kernels(self) -> tuple[EngineLayer, ...]:
        """The layers that touch tensors: not the signals and waits between streams."""
        return tuple(layer for layer in self.layers if layer.inputs or layer.outputs)

    @property
    def crossings(self) -> tuple[Crossing, ...]:
        """The tensors that go through memory, in the order of their first use.

        Tensors are told apart by the compiler's names, which it does not give to two in one plan.
        """
        views: dict[str, TensorView] = {}
        writers: dict[str, list[str]] = {}
        readers: dict[str, list[str]] = {}
        for layer in self.layers:
            for view in layer.inputs:
                views.setdefault(view.name, view)
                readers.setdefault(view.name, []).append(layer.name)
            for view in layer.outputs:
                views[view.name] = view
                writers.setdefault(view.name, []).append(layer.name)
        return tuple(
            Crossing(view, tuple(writers.get(name, ())), tuple(readers.get(name, ())))
            for name, view in views.items()
        )

    def layers_of(self, node: str) -> tuple[EngineLayer, ...]:
        """The layers that an ONNX node became."""
        return tuple(layer for layer in self.layers if node in layer.onnx_nodes)


def dense_bytes(shape: tuple[int, ...], bits: int) -> int:
    """Bytes of a densely stored tensor, rounded up to a whole byte."""
    return -(-prod(shape) * bits // 8)

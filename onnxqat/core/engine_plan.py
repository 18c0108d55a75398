"""What the TensorRT compiler made of a file: its layers, their datatypes and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


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
        """Bytes of activations read and written, constants not counted."""
        return sum(view.bytes for view in (*self.inputs, *self.outputs))


@dataclass(frozen=True)
class EnginePlan:
    """The layers of a compiled engine, in execution order."""

    backend: str
    """`rtx` or `tensorrt`."""
    target: str
    """What it was compiled for, as `SM89`."""
    layers: tuple[EngineLayer, ...]
    unread: tuple[str, ...] = ()
    """What the reader did not understand of the compiler's list: the bytes may miss these."""

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations that all layers read and write."""
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def kernels(self) -> tuple[EngineLayer, ...]:
        """The layers that touch tensors: not the signals and waits between streams."""
        return tuple(layer for layer in self.layers if layer.inputs or layer.outputs)

    def layers_of(self, node: str) -> tuple[EngineLayer, ...]:
        """The layers that an ONNX node became."""
        return tuple(layer for layer in self.layers if node in layer.onnx_nodes)


def dense_bytes(shape: tuple[int, ...], bits: int) -> int:
    """Bytes of a densely stored tensor, rounded up to a whole byte."""
    return -(-prod(shape) * bits // 8)

"""How a tensor is quantized: the code's type and how finely scales are kept.

Symmetric by construction: no spec has a zero point, because TensorRT refuses any but zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class QuantDtype(Enum):
    """The type of the codes, and the ONNX type that carries them in the file."""

    INT8 = "int8"
    INT4_IN_INT8 = "int4_in_int8"
    """4-bit codes in an INT8 container: TensorRT has INT8 convolutions but no INT4 ones."""
    INT4 = "int4"
    """4-bit codes in ONNX's own INT4, for activations: QuantizeLinear saturates at their limits."""
    FP8 = "fp8"
    """Floating-point numbers of 4 exponent and 3 mantissa bits, without infinities (E4M3FN)."""

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return _TRAITS[self].qmin

    @property
    def qmax(self) -> int:
        """Largest code."""
        return _TRAITS[self].qmax

    @property
    def is_float(self) -> bool:
        """Whether the codes are floating-point numbers: not evenly spaced."""
        return self is QuantDtype.FP8

    @property
    def container(self) -> str:
        """The element type of the codes in the file, by its ONNX name."""
        return _TRAITS[self].container

    @property
    def min_opset(self) -> int:
        """The first opset whose QuantizeLinear makes such codes, per channel too."""
        return _TRAITS[self].min_opset

    @property
    def fills_container(self) -> bool:
        """Whether QuantizeLinear's own saturation is at `qmin` and `qmax`.

        Where it is not, the file must hold codes instead of float weights: a QuantizeLinear node
        would saturate at the container's limits.
        """
        return self is not QuantDtype.INT4_IN_INT8


@dataclass(frozen=True)
class _Traits:
    qmin: int
    qmax: int
    container: str
    min_opset: int


_TRAITS = {
    QuantDtype.INT8: _Traits(-128, 127, "INT8", 13),
    QuantDtype.INT4_IN_INT8: _Traits(-8, 7, "INT8", 13),
    QuantDtype.INT4: _Traits(-8, 7, "INT4", 21),
    QuantDtype.FP8: _Traits(-448, 448, "FLOAT8E4M3FN", 19),
}


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor: an activation [N, C, H, W] has a scale of shape []."""


@dataclass(frozen=True)
class PerChannel:
    """One scale for each index of `axis`: a Conv weight [K, C, R, S], axis 0, has scales [K]."""

    axis: int


Granularity = PerTensor | PerChannel


@dataclass(frozen=True)
class QuantSpec:
    """A format of its own: dtype and granularity."""

    dtype: QuantDtype
    granularity: Granularity


@dataclass(frozen=True)
class SharedSpec:
    """The scale and format of another edge; calibrated, stored and trained as ONE scale."""

    follows: Edge


@dataclass(frozen=True, order=True)
class Edge:
    """One consumer's view of a tensor: input `index` of `node` reads `tensor`."""

    tensor: str
    node: str
    index: int

    def __str__(self) -> str:
        return f"{self.tensor} -> {self.node}[{self.index}]"


@dataclass(frozen=True)
class QuantFormat:
    """The formats that a user names in one word, as `int8` or `w4a8`."""

    name: str
    activation: QuantDtype
    weight: QuantDtype

    @property
    def min_opset(self) -> int:
        """The first opset that has both types."""
        return max(self.activation.min_opset, self.weight.min_opset)

    @property
    def is_simulation(self) -> bool:
        """Whether no TensorRT kernel computes in it: activations of less than 8 bits."""
        return self.activation is QuantDtype.INT4


FORMATS = {
    "int8": QuantFormat("int8", QuantDtype.INT8, QuantDtype.INT8),
    "w4a8": QuantFormat("w4a8", QuantDtype.INT8, QuantDtype.INT4_IN_INT8),
    "fp8": QuantFormat("fp8", QuantDtype.FP8, QuantDtype.FP8),
    "w4a4": QuantFormat("w4a4", QuantDtype.INT4, QuantDtype.INT4_IN_INT8),
}

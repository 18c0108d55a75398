"""How a tensor is quantized: the code's type and how finely scales are kept.

Symmetric by construction: no spec has a zero point, because TensorRT refuses any but zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class QuantDtype(Enum):
    """The integer type of the codes, and the ONNX type that carries them in the file."""

    INT8 = "int8"
    INT4_IN_INT8 = "int4_in_int8"
    """4-bit codes in an INT8 container: TensorRT has INT8 convolutions but no INT4 ones."""

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return _LIMITS[self][0]

    @property
    def qmax(self) -> int:
        """Largest code."""
        return _LIMITS[self][1]

    @property
    def fills_container(self) -> bool:
        """Whether QuantizeLinear's own saturation is at `qmin` and `qmax`.

        Where it is not, the file must hold codes instead of float weights: a QuantizeLinear node
        would saturate at the container's limits.
        """
        return self is QuantDtype.INT8


_LIMITS = {QuantDtype.INT8: (-128, 127), QuantDtype.INT4_IN_INT8: (-8, 7)}


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


FORMATS = {
    "int8": QuantFormat("int8", QuantDtype.INT8, QuantDtype.INT8),
    "w4a8": QuantFormat("w4a8", QuantDtype.INT8, QuantDtype.INT4_IN_INT8),
}

"""What the user chose about placement, and what the target compilers differ in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from onnxqat.core.errors import ConfigError
from onnxqat.core.spec import FORMATS, QuantFormat
from onnxqat.placement.families import ACTIVATION_FUNCTIONS, RIDES_ALONG

T = TypeVar("T")

LayerPolicy = Literal["quantized", "float"]
"""What becomes of layers that 8 bits, or a kernel in them, may serve badly."""
EndPolicy = Literal["quantized", "float", "int8"]
"""What becomes of the first or the last layers of a network."""


@dataclass(frozen=True)
class FusedAttention:
    """The attention of several matrices that becomes one kernel in INT8 (P18)."""

    most_tokens: int
    head_sizes: frozenset[int]


@dataclass(frozen=True)
class Profile:
    """Where the compilers, or NVIDIA's own sources about them, differ: plain data."""

    name: str
    weighted_ops: frozenset[str]
    """Ops with weights that the compiler has INT8 kernels for (P1, P4)."""
    pool_ops: frozenset[str]
    """Pools without weights that run in INT8 between a DQ and a Q (P10)."""
    fuses_before_add: frozenset[str]
    """Ops that may stand between a Conv and the residual Add that its kernel takes in (P5)."""
    stores_for_pointwise: bool
    """Whether Q/DQ makes a tensor cross in INT8 that pointwise ops alone read (P5, P13)."""
    squeezes_in_int8: bool
    """Whether Q/DQ around a squeeze-and-excitation block saves anything (P11)."""
    stores_for_recurrence: bool
    """Whether what an LSTM, GRU or RNN reads is stored in INT8, for all that it computes in float.
    """
    fused_attention: FusedAttention
    most_fp8_taps: int
    """Positions of a kernel window that an FP8 Conv may have; with more it runs in float (P16)."""


_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_POOLS = frozenset({"AveragePool"})
_ATTENTION = FusedAttention(512, frozenset({16, 32, 64}))
_FP8_TAPS = 32
"""Measured on TensorRT for RTX 1.7.1, SM89 and SM120: 4x8, 5x6 and 1x32 run in FP8; 1x33, 3x11, 5x7
and 7x7 in float, with any number of channels. ModelOpt's placement has the same limit."""

PROFILES = {
    # As NVIDIA's guide and tools say, of which no compiler here can tell the opposite.
    "tensorrt": Profile(
        "tensorrt",
        weighted_ops=_WEIGHTED | {"ConvTranspose"},
        pool_ops=_POOLS,
        fuses_before_add=RIDES_ALONG,
        stores_for_pointwise=True,
        squeezes_in_int8=True,
        stores_for_recurrence=False,
        fused_attention=_ATTENTION,
        most_fp8_taps=_FP8_TAPS,
    ),
    # Measured on TensorRT for RTX 1.7. It runs every INT8 ConvTranspose in float: Q/DQ there only
    # adds kernels. One kernel takes in an activation function and the Add behind it: Q/DQ between
    # them rounds and saves nothing. And it moves a DQ into the kernel that computes the tensor
    # unless a Conv, Gemm, MatMul or pool reads the INT8 form: the tensor then crosses as float. A
    # recurrence is such a product for all steps at once, and then a loop.
    "rtx": Profile(
        "rtx",
        weighted_ops=_WEIGHTED,
        pool_ops=_POOLS,
        fuses_before_add=RIDES_ALONG | ACTIVATION_FUNCTIONS,
        stores_for_pointwise=False,
        squeezes_in_int8=False,
        stores_for_recurrence=True,
        fused_attention=_ATTENTION,
        most_fp8_taps=_FP8_TAPS,
    ),
}


@dataclass(frozen=True)
class PlacementConfig:
    """What is quantized, in what format, for which compiler.

    A pattern must match the whole node name: `/layer1/.*` is everything in layer 1.
    """

    format: str = "int8"
    """`int8`; `w4a8`: 4-bit weights, 8-bit activations; `fp8`: E4M3 for both, on GPUs from SM89 on;
    `w4a4`: 4 bits for both, a simulation that no TensorRT kernel computes."""
    profile: str = "tensorrt"
    """`tensorrt`, or `rtx` (TensorRT for RTX)."""
    formats: Mapping[str, str] = field(default_factory=dict)
    """Regular expression of node names -> the format of these nodes; the first that matches."""
    include: tuple[str, ...] = ()
    """Regular expressions of node names: nothing but these is quantized. Empty: everything."""
    include_between: tuple[tuple[str, str], ...] = ()
    """Pairs of tensors: the nodes on the ways from the first to the second are included, too."""
    exclude: tuple[str, ...] = ()
    """Regular expressions of node names that stay in float, whatever `include` says."""
    exclude_between: tuple[tuple[str, str], ...] = ()
    """Pairs of tensors: the nodes on the ways from the first to the second stay in float."""
    exclude_ops: tuple[str, ...] = ()
    """Op types that stay in float."""
    first_layer: EndPolicy = "quantized"
    """`float` leaves each Conv, ConvTranspose, Gemm and MatMul in float that an input reaches over
    no other: 8 bits may be too few for raw data. `int8` gives them 8 bits, in any format, as the
    literature on fewer bits does."""
    last_layer: EndPolicy = "quantized"
    """The same for those from which an output is reached over no other."""
    narrow_convs: LayerPolicy = "quantized"
    """`float` leaves Convs in float that have fewer than 16 channels in or out (P15)."""
    narrow_products: LayerPolicy = "quantized"
    """`float` leaves each Gemm or MatMul in float that multiplies a vector, or has weights with a
    side shorter than 16 (P16)."""
    rules: tuple[str, ...] = ()
    """Rules of the user's own, as `file.py:function` or `module:function`: see `place_by`."""

    attention_scores: bool | None = None
    """Whether the scores of attention, before Softmax, are stored in INT8. None: where the shapes
    show that it is not fused into one kernel (an unknown number of matrices is taken for one).
    """

    @property
    def quant_format(self) -> QuantFormat:
        """The format of that name.

        Raises:
            ConfigError: There is none.
        """
        return format_named(self.format)

    @property
    def min_opset(self) -> int:
        """The opset that the formats need: `prepare` has to raise the graph to it.

        Raises:
            ConfigError: There is no format of a name.
        """
        named = map(format_named, self.formats.values())
        return max(x.min_opset for x in (self.quant_format, *named))

    @property
    def compiler(self) -> Profile:
        """The profile of that name.

        Raises:
            ConfigError: There is none.
        """
        return _named(PROFILES, self.profile, kind="profile")


def format_named(name: str) -> QuantFormat:
    """The format of a name.

    Raises:
        ConfigError: There is none.
    """
    return _named(FORMATS, name, kind="format")


def _named(table: Mapping[str, T], name: str, *, kind: str) -> T:
    if name not in table:
        raise ConfigError(f"unknown {kind} '{name}'", fix=f"choose one of: {', '.join(table)}")
    return table[name]

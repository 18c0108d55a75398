"""The flags of the commands that place Q/DQ: what a recipe says under [placement]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from onnxqat.placement import PlacementConfig

Texts = tuple[str, ...]
Pairs = tuple[tuple[str, str], ...]
LayerPolicy = Literal["quantized", "float"]
EndPolicy = Literal["quantized", "float", "int8"]

_SCORES = {"auto": None, "int8": True, "float": False}


def _several(name: str, text: str) -> Parameter:
    return Parameter(name=name, negative="", show_default=False, help=f"{text} (repeatable).")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PlacementFlags:
    """The flags; each is a key of PlacementConfig."""

    format: Annotated[
        Literal["int8", "w4a8", "fp8", "w4a4"],
        Parameter(
            name="--format",
            help="int8: 8-bit weights and activations. w4a8: 4-bit weights (stored in INT8) and "
            "8-bit activations. fp8: E4M3 for both, which GPUs from SM89 (Ada, Hopper) on compute. "
            "w4a4: 4 bits for both, a simulation: no TensorRT kernel computes it.",
        ),
    ] = "int8"
    profile: Annotated[
        Literal["tensorrt", "rtx"],
        Parameter(name="--profile", help="Whose placement rules: TensorRT or TensorRT for RTX."),
    ] = "tensorrt"
    formats: Annotated[
        Texts, _several("--node-format", "PATTERN=FORMAT: another format for nodes (regex)")
    ] = ()
    include: Annotated[
        Texts, _several("--include", "Quantize only nodes whose name matches (regex)")
    ] = ()
    include_between: Annotated[
        Pairs, _several("--include-between", "FROM TO: quantize only nodes between two tensors")
    ] = ()
    exclude: Annotated[
        Texts, _several("--exclude", "Leave nodes in float whose name matches (regex)")
    ] = ()
    exclude_between: Annotated[
        Pairs, _several("--exclude-between", "FROM TO: leave nodes between two tensors in float")
    ] = ()
    exclude_ops: Annotated[
        Texts, _several("--exclude-op", "Leave all nodes of this op type in float")
    ] = ()
    first_layer: Annotated[
        EndPolicy,
        Parameter(
            name="--first-layer",
            help="The first Conv, Gemm or MatMul behind an input. int8: in 8 bits, in any format.",
        ),
    ] = "quantized"
    last_layer: Annotated[
        EndPolicy,
        Parameter(
            name="--last-layer",
            help="The last Conv, Gemm or MatMul before an output. int8: in 8 bits, in any format.",
        ),
    ] = "quantized"
    narrow_convs: Annotated[
        LayerPolicy,
        Parameter(name="--narrow-convs", help="Convs of fewer than 16 channels in or out."),
    ] = "quantized"
    narrow_products: Annotated[
        LayerPolicy,
        Parameter(
            name="--narrow-products",
            help="Gemm and MatMul of a vector, or of weights with a side shorter than 16.",
        ),
    ] = "quantized"
    rules: Annotated[
        Texts,
        _several("--rule", "FILE.py:FUNCTION: a rule of your own, see `onnxqat rule own_rules`"),
    ] = ()
    attention_scores: Annotated[
        Literal["auto", "int8", "float"],
        Parameter(
            name="--attention-scores",
            help="How scores are stored before Softmax. int8 saves bytes where attention is not "
            "fused into one kernel, and prevents that fusion; auto: int8 where shapes show that it "
            "is not fused.",
        ),
    ] = "auto"

    def config(self) -> PlacementConfig:
        """What the stage is told.

        Raises:
            ConfigError: A `--node-format` is no pattern and format.
        """
        from onnxqat.placement import PlacementConfig

        return PlacementConfig(
            format=self.format,
            profile=self.profile,
            formats=dict(_pattern_and_format(text) for text in self.formats),
            include=self.include,
            include_between=self.include_between,
            exclude=self.exclude,
            exclude_between=self.exclude_between,
            exclude_ops=self.exclude_ops,
            first_layer=self.first_layer,
            last_layer=self.last_layer,
            narrow_convs=self.narrow_convs,
            narrow_products=self.narrow_products,
            rules=self.rules,
            attention_scores=_SCORES[self.attention_scores],
        )


def _pattern_and_format(text: str) -> tuple[str, str]:
    from onnxqat.core.errors import ConfigError

    pattern, _, name = text.rpartition("=")
    if not pattern or not name:
        raise ConfigError(f"'{text}' is no pattern and format", fix="write it as /layer4/.*=w4a8")
    return pattern, name


DEFAULT = PlacementFlags()

"""A Conv with Q/DQ on both sides, in ONNX text syntax, each part of which can be spoiled."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

CHANNELS = 8
GOOD_SCALES = ", ".join(f"{0.01 + 0.001 * i:.3f}" for i in range(CHANNELS))
ZEROS = ", ".join(["0"] * CHANNELS)
WEIGHTS = ", ".join(f"{i / 30 - 1:.2f}" for i in range(CHANNELS * CHANNELS))
CODES = ", ".join(str(i) for i in range(CHANNELS * CHANNELS))


@dataclass(frozen=True)
class ConvText:
    """The parts of `conv`; the defaults make the good graph."""

    inputs: str = "float[1, 8, 16, 16] x"
    outputs: str = "float[1, 8, 16, 16] y"
    scale: str = "float s = {0.02}"
    zero_point: str = "int8 z = {0}"
    weights: str = f"float[8, 8, 1, 1] W = {{{WEIGHTS}}}"
    weight_scale: str = f"float[8] ws = {{{GOOD_SCALES}}}"
    weight_zero_point: str = f"int8[8] wz = {{{ZEROS}}}"
    more: str = ""
    """More initializers."""
    data_pair: str = """
        [x_Q] xq = QuantizeLinear (x, s, z)
        [x_DQ] xd = DequantizeLinear (xq, s, z)"""
    weight_pair: str = """
        [W_Q] wq = QuantizeLinear <axis = 0> (W, ws, wz)
        [W_DQ] wd = DequantizeLinear <axis = 0> (wq, ws, wz)"""
    product: str = "[conv] y = Conv <kernel_shape = [1, 1]> (xd, wd)"
    opset: int = 21

    def text(self) -> str:
        """The model in ONNX text syntax."""
        parts = (self.scale, self.zero_point, self.weights, self.weight_scale)
        initializers = ", ".join(p for p in (*parts, self.weight_zero_point, self.more) if p)
        return f"""<ir_version: 10, opset_import: ["" : {self.opset}]>
        conv ({self.inputs}) => ({self.outputs}) <{initializers}>
        {{ {self.data_pair} {self.weight_pair}
           {self.product} }}"""


def conv(**spoiled: str | int) -> onnx.ModelProto:
    """The good graph, or one with other parts."""
    return onnx.parser.parse_model(replace(ConvText(), **spoiled).text())  # type: ignore[arg-type]

"""Operators by what quantization means for them, as data."""

from __future__ import annotations

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})

WEIGHTED = CONVOLUTIONS | {"Gemm", "MatMul"}
"""Ops that sum products with weights: the kernels that INT8 makes faster."""

RECURRENT = frozenset({"GRU", "LSTM", "RNN"})

VALUE_INPUTS: dict[str, tuple[int, ...] | None] = {
    "Concat": None,
    "DepthToSpace": (0,),
    "Expand": (0,),
    "Flatten": (0,),
    "Gather": (0,),
    "Identity": (0,),
    "MaxPool": (0,),
    "Pad": (0,),
    "Reshape": (0,),
    "Resize": (0,),
    "Slice": (0,),
    "SpaceToDepth": (0,),
    "Split": (0,),
    "Squeeze": (0,),
    "Tile": (0,),
    "Transpose": (0,),
    "Unsqueeze": (0,),
}
"""Ops that only copy or choose values, so that Q and DQ move over them, and the inputs whose values
they are (None: all). Pad and Resize do so in some modes: ask `scene.value_inputs`."""

CHOOSES_PART = frozenset({"Gather", "Slice", "Split"})
"""Those of `VALUE_INPUTS` whose result may lack most of the values."""

KEEPS_FEATURES = frozenset(
    {
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Clip",
        "Elu",
        "Gelu",
        "GlobalAveragePool",
        "GroupNormalization",
        "HardSwish",
        "InstanceNormalization",
        "LayerNormalization",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "RMSNormalization",
        "Relu",
        "Selu",
        "Swish",
    }
)
"""Ops behind a weighted op whose result is still a feature map of the network."""

RIDES_ALONG = frozenset({"BatchNormalization", "Add", "Mul"})
"""Ops with one activation input that a kernel takes into its epilogue: an unfolded
BatchNormalization, a bias behind a MatMul, a scale."""

ACTIVATION_FUNCTIONS = frozenset(
    {
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Mish",
        "PRelu",
        "Pow",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Sub",
        "Swish",
        "Tanh",
    }
)
"""Pointwise ops that activation functions are, or are written with."""

MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})
"""Ops that average whole maps."""

SATURATES = frozenset({"Clip", "Erf", "HardSigmoid", "Sigmoid", "Tanh"})
"""Ops with a bounded result, which gates and smooth activations multiply by."""

READS_NO_VALUES = frozenset({"Shape", "Size"})
"""Ops that ask how large a tensor is: nothing of it has to be stored for them."""

WITH_SUBGRAPHS = frozenset({"If", "Loop", "Scan"})

_MOVE = "only moves or chooses values: the Q behind it moves back over it (P7)"
_POINTWISE = "a pointwise op fuses with its neighbours, and runs in their type (P12, P17, P19)"
_NORM = "a normalization needs float for its statistics (P17)"
_MEAN = "the compilers average whole maps in float (P10)"

WHY_FLOAT = {
    **dict.fromkeys(VALUE_INPUTS, _MOVE),
    **dict.fromkeys(("Div", "Erf", "Exp", "Gelu", "Mul", "Pow", "Sqrt", "Sub"), _POINTWISE),
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Clip", "Mish"), _POINTWISE),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "HardSwish", "Swish", "Tanh"), _POINTWISE),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "LpNormalization", "LRN"), _NORM),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), _NORM),
    **dict.fromkeys(MEANS, _MEAN),
    "Add": "no residual of a Conv, Gemm or MatMul: INT8 would cost accuracy for no kernel (P17)",
    "AveragePool": "what it reads or writes is no INT8 tensor, so that it gains nothing (P10)",
    "BatchNormalization": "between a Conv and its activation no Q is wanted (P12, P13)",
    "LogSoftmax": "its exponentials need float",
    "Softmax": "its exponentials need float; a MatMul behind it quantizes its result (P18)",
}
"""Op -> why its inputs stay in float where no rule quantizes them."""

WHY_FLOAT_OTHERWISE = "no rule quantizes {op}: it runs in the type of its neighbours (P19)"

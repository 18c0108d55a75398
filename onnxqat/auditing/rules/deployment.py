"""DEP: what stands between a file and the machine that it is meant for, quantized or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from math import prod

import numpy as np

from onnxqat.auditing.registry import Objection, rule
from onnxqat.auditing.rules.legality import REFUSED_OPS
from onnxqat.auditing.subject import Subject
from onnxqat.auditing.values import dtype_name, label
from onnxqat.core.finding import Severity
from onnxqat.graph.graph import is_onnx
from onnxqat.graph.passes.pools import clipped_window
from onnxqat.graph.query import RANDOM_OPS, is_training

OLDEST_OPSET = 7
"""Below, TensorRT's parser warns that models "are not guaranteed to work" (RTX 1.7.1)."""
NEWEST_OPSET = 27
"""The newest that its parser was seen to read; older releases end earlier: TensorRT 10.0 at 20."""

UNSUPPORTED_OPS = frozenset(
    {"AffineGrid", "Bernoulli", "BitCast", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr"}
    | {"BitwiseXor", "CenterCropPad", "Col2Im", "Compress", "ConcatFromSequence", "CumProd"}
    | {"DFT", "DeformConv", "Det", "ImageDecoder", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix"}
    | {"Multinomial", "NegativeLogLikelihoodLoss", "Optional", "OptionalGetElement"}
    | {"OptionalHasElement", "RegexFullMatch", "SequenceAt", "SequenceConstruct"}
    | {"SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap"}
    | {"SoftmaxCrossEntropyLoss", "SplitToSequence", "StringConcat", "StringNormalizer"}
    | {"StringSplit", "SwiGLU", "TfIdfVectorizer", "Unique"}
)
"""ONNX operators that the parser of TensorRT for RTX 1.7.1 says it does not support
(`OnnxParser.supports_operator` over all of ONNX 1.23), without those that QDQ011 tells."""

OWN_OPS = frozenset(
    {"GroupQueryAttention", "TRT_FP4DynamicQuantize", "TRT_FP4QuantizeLinear"}
    | {"TRT_FP8DequantizeLinear", "TRT_FP8QuantizeLinear", "TRT_INT4DequantizeLinear"}
    | {"TRT_INT4QuantizeLinear", "TRT_MXFP8DequantizeLinear", "TRT_MXFP8DynamicQuantize"}
    | {"DequantizeLinear", "QuantizeLinear"}
)
"""Operators of other domains that the parser reads; Q and DQ in ONNX Runtime's, as in ONNX's."""

LARGEST_WINDOW = 100_000
"""Values of a pool's window of one or two axes from which TensorRT refuses it."""
PLANAR = 2

HEADS_APART = 4
"""Axes of what Attention reads where its heads have one of their own."""

BATCH_AXIS = 0


@rule("DEP001", Severity.WARNING)
def opset_out_of_range(subject: Subject) -> Iterator[Objection]:
    """The model's opset is older or newer than what TensorRT's parser reads.

    Why it matters: below opset 7 the parser warns, and may read operators wrongly. Above the newest
    opset that it knows it takes each operator for the last version that it does know.

    How to fix: convert with `onnx.version_converter`, or export again at an opset between 13 and
    the newest that your release of TensorRT names.

    Source: measured on TensorRT for RTX 1.7.1, opsets 5 to 27; TensorRT's release notes.
    """
    opset = subject.opset()
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        side = "older" if opset < OLDEST_OPSET else "newer"
        yield Objection(
            f"the model is of opset {opset}, {side} than the {OLDEST_OPSET} to {NEWEST_OPSET} that "
            "TensorRT is known to read",
            fix="convert the model to an opset from 13 on that your TensorRT names",
        )


@rule("DEP002", Severity.NOTE)
def wide_input(subject: Subject) -> Iterator[Objection]:
    """An input or output is int64 or float64.

    Why it matters: before version 10 TensorRT turned int64 into int32, and every version computes
    float64 in float32. The application has to feed the type that the engine has.

    How to fix: export the model with int32 indices and float32 data, or feed what the engine asks.

    Source: TensorRT developer guide, data types.
    """
    for tensor in (*subject.graph.inputs, *subject.graph.outputs):
        name = dtype_name(tensor)
        if name in ("int64", "float64"):
            yield Objection(
                f"'{tensor.name}' is {name}",
                tensor=tensor.name,
                fix="export with int32 or float32, or feed the engine's own type",
            )


@rule("DEP003", Severity.WARNING)
def dynamic_without_profile(subject: Subject) -> Iterator[Objection]:
    """An input has dynamic dimensions other than the batch, and no shape is given for it.

    Why it matters: an engine is built for a range of shapes. Tools take 1 for what nobody states,
    which fails or gives an engine for 1x1 images.

    How to fix: state the shape: `--shape NAME=1x3x224x224`, or `shapes` in the configuration; with
    trtexec `--minShapes`, `--optShapes` and `--maxShapes`.

    Source: TensorRT developer guide, working with dynamic shapes.
    """
    first = [tensor.shape[BATCH_AXIS] for tensor in subject.graph.inputs if tensor.shape]
    batch = {size for size in first if isinstance(size, str)}
    for tensor in subject.graph.inputs:
        if tensor.name in subject.config.shapes or tensor.shape is None:
            continue
        open_axes = [
            axis
            for axis, size in enumerate(tensor.shape)
            if not isinstance(size, int | np.integer) and axis != BATCH_AXIS and size not in batch
        ]
        if open_axes:
            yield Objection(
                f"dimensions {open_axes} of input '{tensor.name}' are dynamic: "
                f"{[str(size) for size in tensor.shape]}",
                tensor=tensor.name,
                fix=f"give a shape, as --shape {tensor.name}=1x3x224x224",
            )


@rule("DEP004", Severity.ERROR)
def unsupported_operator(subject: Subject) -> Iterator[Objection]:
    """An operator is one that TensorRT's parser does not read.

    Why it matters: TensorRT refuses the whole model.

    How to fix: replace the operator by others, run that part of the network elsewhere (extract it
    with `onnx.utils.extract_model`), or write a plugin.

    Source: measured: `OnnxParser.supports_operator` of TensorRT for RTX 1.7.1.
    """
    for node in subject.calls(UNSUPPORTED_OPS - REFUSED_OPS):
        yield Objection(
            f"TensorRT's parser has no operator {node.op}",
            node=label(node),
            fix="replace the operator, or run it outside of TensorRT",
        )


@rule("DEP005", Severity.NOTE)
def external_data(subject: Subject) -> Iterator[Objection]:
    """The weights lie in another file.

    Why it matters: the model is of no use without that file beside it, and TensorRT's parser finds
    it only when it is given the model's path, not its bytes.

    How to fix: ship both files; parse with `parse_from_file`. Below 2 GB the weights can lie in the
    model itself: `onnxqat prepare`, or `onnx.save` without external data.

    Source: https://onnx.ai/onnx/repo-docs/ExternalData.html
    """
    if subject.graph.has_external_data:
        yield Objection(
            "weights lie in a file beside the model",
            fix="ship both files, and parse the model by its path",
        )


@rule("DEP006", Severity.ERROR)
def custom_operator(subject: Subject) -> Iterator[Objection]:
    """An operator is of another domain than ONNX's, and TensorRT does not know it.

    Why it matters: TensorRT looks for a plugin of that name, and refuses the model without one.

    How to fix: export without the operators of ONNX Runtime's or another tool's own (ONNX Runtime:
    no graph optimization before export), or load the plugin when building. A rule that is ignored
    for a known plugin goes into the configuration: `ignore = ["DEP006"]`.

    Source: measured: "Plugin not found, are the plugin name, version, and namespace correct?"
    """
    functions = {(f.domain, f.name) for f in subject.graph.shell.functions}
    strange = [
        node
        for node in subject.nodes
        if not is_onnx(node) and node.op not in OWN_OPS and (node.domain, node.op) not in functions
    ]
    counts = Counter((node.domain, node.op) for node in strange)
    for node in strange:
        if counts.pop((node.domain, node.op), 0) and "QLinear" not in node.op:
            yield Objection(
                f"{node.domain}::{node.op} is no operator of ONNX or TensorRT",
                node=label(node),
                fix="export without it, or load its plugin when building",
            )


@rule("DEP007", Severity.ERROR)
def window_too_large(subject: Subject) -> Iterator[Objection]:
    """A pool's window of one or two axes holds 100,000 values or more.

    Why it matters: TensorRT refuses the whole model, even where the window only stands for the
    whole input, as at the end of an EfficientNet.

    How to fix: a window larger than its input means one of the input's size, which `--fix` writes,
    and `quantize` and `run` too, where that size is stated; else use GlobalAveragePool or
    GlobalMaxPool.

    Source: measured on TensorRT for RTX 1.7.1: 316x316 compiles, 317x317 and 100,001 do not
    (`maxKernelDimsProduct`); windows of three axes went on to a million and more.
    """
    for node in subject.calls({"AveragePool", "LpPool", "MaxPool"}):
        window = node.attrs.get("kernel_shape", [])
        if len(window) <= PLANAR and prod(window) >= LARGEST_WINDOW:
            clipped = clipped_window(node)
            mend = partial(node.attrs.update, kernel_shape=clipped)
            yield Objection(
                f"the window of this {node.op} holds {prod(window)} values",
                node=label(node),
                fix="clip the window to its input, of a stated size, or use a global pool",
                repair=mend if prod(clipped) < LARGEST_WINDOW else None,
            )


@rule("DEP008", Severity.WARNING)
def random_operator(subject: Subject) -> Iterator[Objection]:
    """An operator draws random numbers.

    Why it matters: two runs of one file give different outputs. What `compare` says of a quantized
    model is then the draw's doing, calibration sees other values than inference, and fine-tuning
    follows noise that its teacher never had.

    How to fix: make the numbers an input of the model, or a constant, and give the same ones to
    both models.

    Source: https://onnx.ai/onnx/operators/onnx__RandomNormalLike.html: without the attribute `seed`
    one is generated.
    """
    for node in subject.calls(RANDOM_OPS):
        yield Objection(
            f"{node.op} draws other numbers in each run, so that outputs cannot be compared",
            node=label(node),
            fix="make the numbers an input or a constant",
        )


@rule("DEP009", Severity.ERROR)
def training_mode(subject: Subject) -> Iterator[Objection]:
    """A BatchNormalization computes the statistics of its batch, as in training.

    Why it matters: TensorRT refuses the whole model. The outputs also depend on what else is in the
    batch, which is rarely meant: the model was exported while it was being trained.

    How to fix: export in evaluation mode (`model.eval()`), with the statistics that training
    gathered. Where the normalized tensor is a weight (weight standardization), `quantize` and `run`
    compute it once, and the file that they write compiles.

    Source: measured on TensorRT for RTX 1.7.1, which refuses `training_mode` = 1, and before opset
    14 every further output, which is how those opsets say the same.
    """
    for node in subject.calls({"BatchNormalization"}):
        if is_training(node):
            yield Objection(
                "this BatchNormalization is in training mode",
                node=label(node),
                fix="export the model in evaluation mode",
            )


@rule("DEP010", Severity.ERROR)
def attention_in_float32(subject: Subject) -> Iterator[Objection]:
    """The operator Attention works on float32 values of four axes, or softens its scores.

    Why it matters: TensorRT has kernels for Attention as one node in float16 and bfloat16; in
    float32, which is what Q/DQ leaves between kernels, it refuses the model, and with the attribute
    `softcap` in every type. The products inside could not be quantized either.

    How to fix: write Attention as the products that ONNX defines it by, which compile, also to
    INT8: `quantize` and `run` do, or `onnx.inliner.inline_selected_functions(model, [("",
    "Attention")], inline_schema_functions=True)`; exporters write so below opset 23.

    Source: measured on TensorRT for RTX 1.7.1 (SM89), head sizes 8 to 128, 16 to 512 tokens.
    """
    for node in subject.calls({"Attention"}):
        query = node.inputs[0]
        rank = None if query.shape is None else len(query.shape)
        if node.attrs.get("softcap", 0) or (dtype_name(query) == "float32" and rank == HEADS_APART):
            yield Objection(
                "TensorRT has no kernel for this Attention as one node",
                node=label(node),
                fix="quantize the float model with onnxqat, which writes it as products, or export "
                "at an opset below 23",
            )

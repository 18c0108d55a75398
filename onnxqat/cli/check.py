"""Commands that measure a model: compare, sensitivity, build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from onnxqat.cli import show
from onnxqat.cli.flags import (
    Backend,
    BatchSize,
    ComputeCapability,
    Data,
    Device,
    Json,
    Output,
    Samples,
    Shapes,
    Teacher,
    Threads,
)
from onnxqat.core.files import check_writable, replacing


def compare(
    reference: Path,
    candidate: Path,
    /,
    *,
    data: Data,
    layers: Annotated[
        bool, Parameter(name="--layers", negative="", help="Also every inner tensor, worst first.")
    ] = False,
    batch_size: BatchSize = 32,
    json: Json = False,
) -> int:
    """Compare two models on data under ONNX Runtime: error, top-1 agreement, task metric.

    Graph optimizations are off, so that what is compared is what the files say.

    Args:
        reference: The FP32 ONNX file.
        candidate: The Q/DQ ONNX file.
    """
    from onnxqat.config_file import read_source
    from onnxqat.data import open_data
    from onnxqat.engine import compare as compare_stage
    from onnxqat.graph import input_specs, load
    from onnxqat.report.console import comparison_table

    source = read_source(data)
    graph = load(reference)
    dataset = open_data(source.source, input_specs(graph), source)
    comparison = compare_stage(
        graph, load(candidate), dataset, layers=layers, batch_size=batch_size
    )
    show.result(comparison, as_json=json, table=comparison_table(comparison))
    return 0


def sensitivity(
    qdq: Path,
    /,
    *,
    teacher: Teacher,
    data: Data,
    samples: Samples = 64,
    batch_size: BatchSize = 16,
    ranked_by: Annotated[
        Literal["sqnr", "loss", "metric"],
        Parameter(
            name="--rank-by",
            help="What is lost when a quantizer alone is on: the outputs' SQNR, --loss, or top-1, "
            "which wants labels.",
        ),
    ] = "sqnr",
    loss: Annotated[str, Parameter(name="--loss", help="As for `finetune`.")] = "mse",
    leave_one_out: Annotated[
        bool,
        Parameter(
            name="--leave-one-out",
            help="Also all quantizers but one, for those that matter; takes up to twice the time.",
        ),
    ] = True,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> int:
    """Rank the quantizers by what each does to the outputs, one at a time; labels are optional.

    Quantizers that share a scale are one. `alone` is the outputs' SQNR with only this one on;
    `without` is that with all others on: what would be gained by leaving it in float.

    Args:
        qdq: The Q/DQ ONNX file, of `onnxqat quantize` or of another tool.
    """
    from onnxqat.bridge import to_torch
    from onnxqat.config_file import read_source
    from onnxqat.data import open_data
    from onnxqat.graph import input_specs, load, prepare
    from onnxqat.report.console import sensitivity_table
    from onnxqat.training.sensitivity import SensitivityConfig
    from onnxqat.training.sensitivity import sensitivity as sensitivity_stage

    config = SensitivityConfig(
        samples=samples,
        batch_size=batch_size,
        ranked_by=ranked_by,
        loss=loss,
        leave_one_out=leave_one_out,
        device=device,
        threads=threads,
    )
    graph, source = load(qdq), read_source(data)
    found = sensitivity_stage(
        to_torch(graph),
        to_torch(prepare(load(teacher))),
        open_data(source.source, input_specs(graph), source),
        config=config,
        on_progress=lambda what, done: show.log(f"sensitivity, {what}: {done} samples"),
    )
    show.result(found, as_json=json, table=sensitivity_table(found))
    return 0


def build(
    model: Path,
    /,
    *,
    output: Output,
    backend: Backend = "auto",
    compute_capability: ComputeCapability = "8.9",
    shapes: Shapes = (),
    json: Json = False,
) -> int:
    """Compile an engine; print its kernels, what each node became, and what Q/DQ came to.

    TensorRT for RTX compiles on a machine without a GPU. That proves that the model is legal, which
    layers read INT8, and what crosses memory; not the speed.

    Args:
        model: The ONNX file, with Q/DQ or without.
    """
    from onnxqat.engine import build as build_stage
    from onnxqat.report.console import engine_table

    check_writable(output, inputs=[model])
    built = build_stage(
        model,
        backend=backend,
        compute_capability=capability_of(compute_capability),
        shapes=dict(shape_of(text) for text in shapes),
    )
    with replacing(output) as path:
        path.write_bytes(built.engine)
    show.result(built.plan, as_json=json, table=engine_table(built.plan))
    return 0


def shape_of(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and sizes of `NAME=1x3x224x224`."""
    from onnxqat.core.errors import ConfigError

    name, _, sizes = text.rpartition("=")
    if not name or not all(size.isdigit() for size in sizes.split("x")):
        raise ConfigError(f"'{text}' is no shape", fix="write it as NAME=1x3x224x224")
    return name, tuple(int(size) for size in sizes.split("x"))


def capability_of(text: str) -> tuple[int, int]:
    """(8, 9) of `8.9`."""
    from onnxqat.core.errors import ConfigError

    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise ConfigError(f"'{text}' is no compute capability", fix="write it as 8.9")
    return int(major), int(minor)


COMMANDS = (compare, sensitivity, build)

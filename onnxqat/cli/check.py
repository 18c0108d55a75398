"""Commands that measure a model: compare, build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from onnxqat.cli import show
from onnxqat.cli.flags import (
    Backend,
    BatchSize,
    ComputeCapability,
    Data,
    Json,
    Output,
    Shapes,
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


COMMANDS = (compare, build)

"""Commands that look at a model: compare, build, audit, rule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from onnxqat.cli import show
from onnxqat.cli.flags import BatchSize, Data, Json, Output
from onnxqat.core.files import check_writable, replacing

FOUND = 1
"""Exit code when there are findings."""


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
    backend: Annotated[
        Literal["auto", "rtx", "tensorrt"],
        Parameter(name="--backend", help="auto: tensorrt where a GPU is, else rtx."),
    ] = "auto",
    compute_capability: Annotated[
        str, Parameter(name="--compute-capability", help="GPU generation that rtx compiles for.")
    ] = "8.9",
    json: Json = False,
) -> int:
    """Compile an engine and print the table of its layers.

    TensorRT for RTX compiles on a machine without a GPU. That proves that the model is legal, which
    layers read INT8, and what crosses memory; not the speed.

    Args:
        model: The ONNX file, with Q/DQ or without.
    """
    from onnxqat.engine import build as build_stage
    from onnxqat.graph import load
    from onnxqat.report.console import engine_table

    check_writable(output)
    built = build_stage(
        load(model), backend=backend, compute_capability=_capability(compute_capability)
    )
    with replacing(output) as path:
        path.write_bytes(built.engine)
    show.result(built.plan, as_json=json, table=engine_table(built.plan))
    return 0


def _capability(text: str) -> tuple[int, int]:
    from onnxqat.core.errors import ConfigError

    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise ConfigError(f"'{text}' is no compute capability", fix="write it as 8.9")
    return int(major), int(minor)


def audit(
    model: Path,
    /,
    *,
    fail_on: Annotated[
        Literal["error", "warning", "note"],
        Parameter(name="--fail-on", help="The mildest finding that makes the exit code 1."),
    ] = "error",
    json: Json = False,
) -> int:
    """Say what TensorRT would refuse, or silently run in float, in a Q/DQ file of any tool.

    Args:
        model: The ONNX file.
    """
    from onnxqat.audit import audit as audit_stage
    from onnxqat.core.finding import Severity
    from onnxqat.graph import load
    from onnxqat.report.console import findings_table

    findings = audit_stage(load(model))
    show.result(findings, as_json=json, table=findings_table(findings))
    order = list(Severity)
    bad = any(order.index(f.severity) >= order.index(Severity(fail_on)) for f in findings)
    return FOUND if bad else 0


COMMANDS = (compare, build, audit)

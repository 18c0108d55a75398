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
    shapes: Annotated[
        tuple[str, ...],
        Parameter(
            name="--shape",
            negative="",
            help="NAME=1x3x224x224: an input's shape, where more than the batch is dynamic "
            "(repeatable).",
        ),
    ] = (),
    json: Json = False,
) -> int:
    """Compile an engine and print the table of its layers.

    TensorRT for RTX compiles on a machine without a GPU. That proves that the model is legal, which
    layers read INT8, and what crosses memory; not the speed.

    Args:
        model: The ONNX file, with Q/DQ or without.
    """
    from onnxqat.core.precision import node_precisions
    from onnxqat.engine import build as build_stage
    from onnxqat.engine import heavy_nodes
    from onnxqat.report.console import engine_table

    check_writable(output, inputs=[model])
    built = build_stage(
        model,
        backend=backend,
        compute_capability=_capability(compute_capability),
        shapes=dict(_shape(text) for text in shapes),
    )
    with replacing(output) as path:
        path.write_bytes(built.engine)
    precisions = node_precisions(built.plan, heavy_nodes(model))
    show.result(built.plan, as_json=json, table=engine_table(built.plan, precisions))
    return 0


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    from onnxqat.core.errors import ConfigError

    name, _, sizes = text.rpartition("=")
    if not name or not all(size.isdigit() for size in sizes.split("x")):
        raise ConfigError(f"'{text}' is no shape", fix="write it as NAME=1x3x224x224")
    return name, tuple(int(size) for size in sizes.split("x"))


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
    from onnxqat.auditing import audit as audit_stage
    from onnxqat.core.finding import Severity
    from onnxqat.graph import load
    from onnxqat.report.console import findings_table

    findings = audit_stage(load(model))
    show.result(findings, as_json=json, table=findings_table(findings))
    order = list(Severity)
    bad = any(order.index(f.severity) >= order.index(Severity(fail_on)) for f in findings)
    return FOUND if bad else 0


def rule(code: str | None = None, /, *, json: Json = False) -> int:
    """Print the manual page of an audit, placement or training rule, or the list of all rules.

    Args:
        code: An audit rule's id, as QDQ001, or another rule's name, as residual_add.
    """
    from onnxqat.core.errors import ConfigError

    pages = _manual()
    if code is None:
        titles = {name: page.splitlines()[0] for name, page in pages.items()}
        width = max(len(name) for name in titles)
        lines = "\n".join(f"{name:{width}}  {title}" for name, title in titles.items())
        show.result(titles, as_json=json, table=lines)
    elif code in pages:
        show.result(pages[code], as_json=json, table=pages[code])
    else:
        raise ConfigError(f"there is no rule {code}", fix=f"choose one of: {', '.join(pages)}")
    return 0


def _manual() -> dict[str, str]:
    """The pages of all rules: audit rules by id, placement rules in their order, the module's."""
    from inspect import getdoc

    from onnxqat.auditing import RULES
    from onnxqat.core.module_findings import PAGES
    from onnxqat.placement.rules import TENSORRT_RULES

    audit_pages = {code: rule.manual for code, rule in sorted(RULES.items())}
    return audit_pages | {rule.__name__: getdoc(rule) or "" for rule in TENSORRT_RULES} | PAGES


COMMANDS = (compare, build, audit, rule)

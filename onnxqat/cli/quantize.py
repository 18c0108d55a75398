"""Commands without training: place, quantize. They import no torch."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from onnxqat.cli import show
from onnxqat.cli.flags import (
    BatchSize,
    Calibrator,
    Data,
    Json,
    Output,
    Samples,
    Workers,
)
from onnxqat.cli.placement_flags import DEFAULT, PlacementFlags
from onnxqat.core.files import check_writable

if TYPE_CHECKING:
    from onnxqat.graph import Change

DEFAULT_SAMPLES = 512


def place(
    model: Path,
    /,
    *,
    placement: PlacementFlags = DEFAULT,
    explain: Annotated[
        str | None,
        Parameter(name="--explain", help="Only this node: format, rule, reason and source."),
    ] = None,
    why_not: Annotated[
        str | None,
        Parameter(name="--why-not", help="Only what of this node stays in float, and why."),
    ] = None,
    json: Json = False,
) -> int:
    """Print what would get Q/DQ, what would not, and why; of a Q/DQ file, what has and what not.

    Args:
        model: The FP32 ONNX file; or a Q/DQ file, whose plan is then told as it lies in it.
        placement: What is quantized, and how.
    """
    from onnxqat.graph import extract, load, prepare, qdq_pairs
    from onnxqat.graph.insert import PLAN_KEY
    from onnxqat.placement import explain as explain_stage
    from onnxqat.placement import place as place_stage
    from onnxqat.placement.explain import FLOAT
    from onnxqat.report.console import explanation_table, plan_table

    config, graph = placement.config(), load(model)
    if qdq_pairs(graph) or PLAN_KEY in graph.metadata:
        plan = extract(graph)[0]
    else:
        plan = place_stage(prepare(graph, min_opset=config.min_opset), config=config)
    node = why_not if explain is None else explain
    if node is None:
        show.result(plan, as_json=json, table=plan_table(plan))
        return 0
    known = explain_stage(plan, node)
    told = tuple(x for x in known if explain is not None or x.format == FLOAT)
    show.result(told, as_json=json, table=explanation_table(node, told))
    return 0


def quantize(
    model: Path,
    /,
    *,
    data: Data,
    output: Output,
    placement: PlacementFlags = DEFAULT,
    calibrator: Calibrator = "auto",
    samples: Samples = DEFAULT_SAMPLES,
    batch_size: BatchSize | None = None,
    workers: Workers = 0,
    json: Json = False,
) -> int:
    """Write the Q/DQ model that calibration alone gives: post-training quantization.

    Prepares the model (folds BatchNormalization and constants), places Q/DQ by TensorRT's rules,
    calibrates on the data, and inserts. The model's own file is not changed.

    Args:
        model: The FP32 ONNX file.
        placement: What is quantized, and how.
    """
    from onnxqat.calibration import CalibrationConfig, calibrate
    from onnxqat.config_file import read_source
    from onnxqat.data import open_data
    from onnxqat.graph import input_specs, insert, load, prepare, save
    from onnxqat.placement import check_precision
    from onnxqat.placement import place as place_stage

    check_writable(output, inputs=[model])
    start = time.perf_counter()
    source = read_source(data)
    original = load(model)
    dataset = open_data(
        source.source, input_specs(original), replace(source, workers=workers or source.workers)
    )
    made: list[Change] = []
    asked = placement.config()
    prepared = prepare(original, min_opset=asked.min_opset, on_change=made.append)
    show.changes(made)
    check_precision(prepared)
    plan = place_stage(prepared, config=asked)
    config = CalibrationConfig(method=calibrator, samples=samples, batch_size=batch_size)
    calibration = calibrate(prepared, plan, dataset, config=config)
    save(insert(prepared, plan, calibration), output)
    report = Quantized(
        output=str(output),
        placed=len(plan.placements),
        skipped=len(plan.skips),
        tensors=len(calibration.ranges),
        seconds=round(time.perf_counter() - start, 2),
    )
    show.result(report, as_json=json, table=report.line)
    return 0


@dataclass(frozen=True)
class Quantized:
    """What `quantize` did."""

    output: str
    placed: int
    """Edges with Q/DQ."""
    skipped: int
    """Edges left in float, each with a reason: see `onnxqat place`."""
    tensors: int
    """Tensors with a calibrated range."""
    seconds: float

    @property
    def line(self) -> str:
        """The result in one line."""
        return (
            f"{self.output}: {self.placed} edges with Q/DQ over {self.tensors} tensors, "
            f"{self.skipped} left in float (reasons: onnxqat place); {self.seconds} s"
        )


COMMANDS = (place, quantize)

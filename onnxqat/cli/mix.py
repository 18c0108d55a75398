"""The command that finds a plan in mixed precision: mix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from onnxqat.cli import show
from onnxqat.cli.flags import Calibrator, Data, Device, Json, Output, Samples, Threads
from onnxqat.cli.placement_flags import DEFAULT, PlacementFlags
from onnxqat.core.files import check_writable

Limit = float | None


def mix(
    model: Path,
    /,
    *,
    data: Data,
    output: Output,
    sqnr_db: Annotated[
        Limit, Parameter(name="--sqnr-db", help="Budget: SQNR of the worst output, at least.")
    ] = None,
    agreement: Annotated[
        Limit,
        Parameter(
            name="--agreement", help="Budget: share (0 to 1) of FP32's top-1 classes, at least."
        ),
    ] = None,
    metric_drop: Annotated[
        Limit,
        Parameter(name="--metric-drop", help="Budget: top-1 (0 to 1) lost, at most; wants labels."),
    ] = None,
    validation: Annotated[
        str | None,
        Parameter(
            name="--validation",
            help="Samples that judge the plans, as --data; else a quarter of the samples do.",
        ),
    ] = None,
    cost: Annotated[
        Literal["bytes", "nodes"],
        Parameter(
            name="--cost",
            help="What is given up as little as possible: INT8 in bytes of what nodes read, or in "
            "nodes, each of which is about a kernel.",
        ),
    ] = "bytes",
    placement: PlacementFlags = DEFAULT,
    calibrator: Calibrator = "auto",
    samples: Samples = 128,
    device: Device = "auto",
    threads: Threads = None,
    json: Json = False,
) -> int:
    """Write the Q/DQ model in mixed precision that keeps a budget, after calibration alone.

    Nodes that make much of the error for what they cost get more bits, or stay in float, as a
    whole, and what hangs on them follows by the placement rules. Prints the nodes and the curve of
    what was tried. `onnxqat place OUT --explain NODE` tells why a node is what it is.

    Args:
        model: The FP32 ONNX file.
        placement: What is quantized to begin with, and how.
    """
    from onnxqat.calibration import CalibrationConfig
    from onnxqat.config_file import read_source
    from onnxqat.data import Dataset, open_data
    from onnxqat.graph import input_specs, insert, load, prepare, save
    from onnxqat.mixing import MixConfig
    from onnxqat.mixing import mix as mix_stage
    from onnxqat.placement import check_precision
    from onnxqat.report.console import mix_line, mix_table

    check_writable(output, inputs=[model])
    original = load(model)

    def opened(text: str) -> Dataset:
        source = read_source(text)
        return open_data(source.source, input_specs(original), source)

    chosen = placement.config()
    prepared = prepare(original, min_opset=chosen.min_opset)
    check_precision(prepared)
    config = MixConfig(
        sqnr_db=sqnr_db,
        agreement=agreement,
        metric_drop=metric_drop,
        cost=cost,
        samples=samples,
        device=device,
        threads=threads,
    )
    found = mix_stage(
        prepared,
        opened(data),
        config=config,
        placement=chosen,
        calibration=CalibrationConfig(method=calibrator, threads=threads),
        judge=opened(validation) if validation is not None else None,
        on_point=lambda point: show.log(f"mix: {mix_line(point)}"),
    )
    if not found.plan.placements:
        show.log("mix: nothing keeps the budget but float: the file has no Q/DQ")
    save(insert(prepared, found.plan, found.calibration), output)
    show.result(found, as_json=json, table=mix_table(found))
    return 0


COMMANDS = (mix,)

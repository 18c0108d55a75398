"""The flags that several commands share: one name, one meaning, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Data = Annotated[
    str,
    Parameter(
        name="--data",
        help="Samples: a .npz file (arrays by input name, optional 'labels'), a folder of .npz "
        "shards, a folder of images, SCRIPT.py[:FUNCTION], MODULE:CALLABLE, or a .toml file that "
        "names one of these as 'source' with its options (arrays, scale, mean, std, start, …).",
    ),
]
Output = Annotated[Path, Parameter(name=["--output", "-o"], help="The file to write.")]
Folder = Annotated[
    Path, Parameter(name=["--out", "--output", "-o"], help="The folder for every artefact.")
]
Calibrator = Annotated[
    Literal["auto", "max", "percentile", "entropy", "mse"],
    Parameter(name="--calibrator", help="How a tensor's range is chosen."),
]
Samples = Annotated[
    int, Parameter(name="--samples", help="How many samples to use, from the first.")
]
BatchSize = Annotated[
    int,
    Parameter(
        name="--batch-size", help="Samples at a time; a fixed batch in the model goes before."
    ),
]
Workers = Annotated[int, Parameter(name="--workers", help="Threads that load data.")]
Threads = Annotated[
    int | None,
    Parameter(
        name="--threads",
        help="Threads that compute on the CPU; fewer than cores are faster on a shared machine.",
    ),
]
Teacher = Annotated[Path, Parameter(name="--teacher", help="The FP32 ONNX file.")]
Backend = Annotated[
    Literal["auto", "rtx", "tensorrt"],
    Parameter(name="--backend", help="The compiler; auto: tensorrt where a GPU is, else rtx."),
]
ComputeCapability = Annotated[
    str, Parameter(name="--compute-capability", help="GPU generation that rtx compiles for.")
]
Shapes = Annotated[
    tuple[str, ...],
    Parameter(
        name="--shape",
        negative="",
        help="NAME=1x3x224x224: an input's shape, where more than the batch is dynamic "
        "(repeatable).",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], Parameter(name="--device", help="Where training runs.")
]
Seed = Annotated[int, Parameter(name="--seed", help="Seed of every random draw.")]
PrintEvery = Annotated[
    int, Parameter(name="--print-every", help="Steps between two progress lines; 0: a bar only.")
]
Resume = Annotated[
    bool,
    Parameter(
        name="--resume",
        negative="",
        help="Go on with the run that was stopped or killed, from its last checkpoint, with the "
        "same result as if it had not been; begin one where there is none.",
    ),
]
Json = Annotated[
    bool, Parameter(name="--json", negative="", help="Print the result as JSON on stdout.")
]

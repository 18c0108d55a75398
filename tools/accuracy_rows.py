"""The rows of the table of accuracies, and what is kept of them. See bench_accuracy.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

from onnxqat.config_file import DataSource
from onnxqat.initialization import STAGES
from onnxqat.initialization.config import FLOAT_STAGES
from onnxqat.recipe import Recipe, read_recipe

TOOLS = Path(__file__).resolve().parent


@dataclass(frozen=True, eq=False)
class Model:
    """A pretrained model, with the recipe that names its data."""

    name: str
    recipe_file: str
    steps: Mapping[str, int]
    """Format -> steps of training; "" for all others."""
    step_seconds: float
    """Of a training step on one core, for `--list`."""

    @cached_property
    def recipe(self) -> Recipe:
        """Model file, data roles and batch sizes."""
        return read_recipe(TOOLS / "recipes" / self.recipe_file)


MODELS = {
    model.name: model
    for model in (
        Model("resnet20", "resnet20_int8.toml", {"": 200, "w4a8": 600, "w4a4": 600}, 0.5),
        Model("mobilenet", "mobilenet_int8.toml", {"": 300}, 1.1),
        Model("kwt1", "kwt1_int8.toml", {"": 300}, 0.5),
    )
}
FLOAT = "fp32"
FORMATS = ("int8", "w4a8", "fp8", "w4a4")
CALIBRATORS = ("max", "percentile", "entropy", "mse", "auto")
WITH_LABELS = "mse+0.1*labels"
TOGETHER = (*FLOAT_STAGES, "reconstruct", "adaround", "bias_correction")
"""Initialization stages of the row `init`, which gain one after the other on validation samples:
channels in balance first, then blocks, then the rounding that the straight-through estimator
leaves, then the biases. What does not gain on a model is undone."""
SAMPLES = 2048
"""Of those that are trained on, for initialization, as far as there are so many."""


@dataclass(frozen=True)
class Row:
    """One way to a model. It starts from another row's model, or from the FP32 one."""

    name: str
    start: str | None = None
    calibrator: str | None = None
    """By which it is quantized, where it does not start from a quantized model."""
    stages: tuple[str, ...] = ()
    """Of initialization: those of the FP32 model, then those of the quantized one."""
    loss: str | None = None
    """What it trains on."""

    @property
    def float_stages(self) -> tuple[str, ...]:
        """Those of the FP32 model."""
        return tuple(stage for stage in self.stages if stage in FLOAT_STAGES)

    @property
    def qdq_stages(self) -> tuple[str, ...]:
        """Those of the quantized model."""
        return tuple(stage for stage in self.stages if stage not in FLOAT_STAGES)


FLOAT_ROWS = (Row("fp32"), Row("control", start="fp32", loss=WITH_LABELS))


def quantized_rows(stages: Sequence[str] = (*FLOAT_STAGES, *STAGES)) -> tuple[Row, ...]:
    """The rows of each quantized format."""
    return (
        *(Row(f"ptq-{name}", calibrator=name) for name in CALIBRATORS),
        *(_initialized_row(f"init-{name}", (name,)) for name in stages),
        _initialized_row("init", TOGETHER),
        Row("qat", start="ptq-auto", loss="mse"),
        Row("init+qat", start="init", loss="mse"),
        Row("qat-labels", start="ptq-auto", loss=WITH_LABELS),
    )


def _initialized_row(name: str, stages: tuple[str, ...]) -> Row:
    """What changes the FP32 model comes before calibration."""
    if any(stage in FLOAT_STAGES for stage in stages):
        return Row(name, calibrator="auto", stages=stages)
    return Row(name, start="ptq-auto", stages=stages)


@dataclass(frozen=True)
class Job:
    """One line of the table."""

    model: Model
    format: str
    row: Row

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.model.name}.{self.format}.{self.row.name}"

    @property
    def start(self) -> Job | None:
        """The job whose model it starts from."""
        rows = {row.name: row for row in rows_of(self.format)}
        return None if self.row.start is None else replace(self, row=rows[self.row.start])

    @property
    def float_stages(self) -> tuple[str, ...]:
        """What the FP32 model went through that it is made of."""
        start = self.start
        return self.row.float_stages or (() if start is None else start.float_stages)

    @property
    def calibrator(self) -> str | None:
        """By which it, or what it starts from, is quantized."""
        start = self.start
        return self.row.calibrator or (None if start is None else start.calibrator)

    @property
    def steps(self) -> int:
        """Of training."""
        steps = self.model.steps
        return 0 if self.row.loss is None else steps.get(self.format, steps[""])

    @property
    def seconds(self) -> float:
        """What it should take, without the row that it starts from."""
        return 20 + self.steps * self.model.step_seconds + 60 * len(self.row.qdq_stages)


def rows_of(format_name: str) -> tuple[Row, ...]:
    """The rows of a format."""
    return FLOAT_ROWS if format_name == FLOAT else quantized_rows()


def jobs(models: Sequence[str], formats: Sequence[str], rows: Sequence[str]) -> list[Job]:
    """The lines that were asked for; rows by patterns of the shell. FP32 belongs to each table."""
    return [
        Job(MODELS[model], name, row)
        for model in models
        for name in (FLOAT, *formats)
        for row in rows_of(name)
        if any(fnmatchcase(row.name, pattern) for pattern in (*rows, "fp32"))
    ]


@dataclass(frozen=True)
class Result:
    """One measured line."""

    samples: int
    top1: float
    agreement: float
    sqnr_db: float | None
    """None: equal to FP32 to the bit."""
    steps: int
    seconds: float
    notes: tuple[str, ...] = ()
    lost: int | None = None
    """Samples that only FP32 has right."""
    gained: int | None = None
    """Samples that only this one has right."""
    state: str = ""
    """Of the repository, where it was measured in one."""

    def measure(self, name: str, float_top1: float) -> float:
        """One of its numbers; `top1_change` against the FP32 row."""
        if name == "top1_change":
            return round(self.top1 - float_top1, 9)  # shares of samples, not float noise
        value = getattr(self, name)
        return inf if value is None else float(value)


class Store:
    """The results in a folder, each with the key of its settings."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        """Keep results of so many threads in a folder, which is made on the first one."""
        self._folder = folder
        self._threads = threads

    def model_path(self, job: Job) -> Path:
        """Where the model of a line lies."""
        return self._folder / f"{job.name}.onnx"

    def result(self, job: Job) -> Result | None:
        """What a line came to; None if it was not measured with these settings."""
        try:
            kept = json.loads(self._path(job).read_text())
        except (FileNotFoundError, json.JSONDecodeError):  # absent, or broken off in writing
            return None
        if kept["key"] != self.key(job):
            return None
        return Result(**{**kept["result"], "notes": tuple(kept["result"]["notes"])})

    def put(self, job: Job, result: Result) -> None:
        """Keep what a line came to; its model is there already."""
        content = {
            "key": self.key(job),
            "settings": self.settings(job),
            "result": asdict(result),
        }
        self._path(job).write_text(json.dumps(content, indent=1))

    def key(self, job: Job) -> str:
        """A digest of all that a line comes from."""
        text = json.dumps(self.settings(job), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def settings(self, job: Job) -> dict[str, Any]:
        """All that a line comes from, but for the code of onnxqat itself."""
        recipe, start = job.model.recipe, job.start
        roles = {
            role: None if source is None else asdict(source) | {"source": _short(source)}
            for role, source in _roles(recipe).items()
        }
        return {
            "row": asdict(job.row),
            "format": job.format,
            "model": recipe.model.name,
            "roles": roles,
            "steps": job.steps,
            "batch_size": recipe.finetune.batch_size,
            "threads": self._threads,
            "initialization_samples": SAMPLES if job.row.qdq_stages else 0,
            "start": None if start is None else self.key(start),
            **({} if job.row.loss is None else {"augment": list(recipe.finetune.augment)}),
        }

    def _path(self, job: Job) -> Path:
        return self._folder / f"{job.name}.json"


def _roles(recipe: Recipe) -> dict[str, DataSource | None]:
    data = recipe.data
    return {
        "calibration": data.calibration,
        "train": data.train,
        "validation": data.validation,
        "test": data.test,
    }


def _short(source: DataSource) -> str:
    """Without the folder, so that a key is the same wherever the repository lies."""
    return Path(source.source).name

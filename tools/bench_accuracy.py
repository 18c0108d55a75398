"""Accuracy of every way to quantize, on the three pretrained models: one table, row by row.

    python tools/bench_accuracy.py [--models NAME...] [--formats NAME...] [--rows PATTERN...]
                                   [--out FOLDER] [--threads N] [--list | --print]

    fp32            the model as it is
    control         FP32 after the training of `qat-labels`: what more training alone does
    ptq-METHOD      post-training quantization by each calibrator
    init-STAGE      `ptq-auto`, then one initialization stage
    init            `ptq-auto`, then the stages that go together
    qat             `ptq-auto`, then training without labels
    init+qat        `init`, then training without labels
    qat-labels      `ptq-auto`, then training with labels beside the FP32 outputs

Models, data and what serves for what are those of tools/recipes: what is reported is used for
nothing else. Formats are int8, w4a8, fp8, and w4a4, which is a simulation. Agreement and SQNR are
against FP32, top-1 has its 95 % interval (Wilson), and the time is of the row's own work, without
that of the row it starts from.

Each row is kept in FOLDER as JSON, with the model beside it and a key of all settings that it
comes from: a broken-off table goes on where it stood, and a row whose settings have changed is made
anew. `--rows 'qat*'` makes one part, and what it starts from; `--list` tells what there is and the
time it should take; `--print` makes nothing. Expect two and a half hours for the whole table on one
core, of which the 36 rows with training take most: 90 to 600 seconds each. Results differ in the
last digits with the number of threads, which is therefore one of the settings.

Exit code 1: a bar is missed (see BARS and PEERS). One whose rows are not all there is left open.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal

import onnxqat
from onnxqat.calibration import CalibrationConfig
from onnxqat.config_file import DataSource
from onnxqat.core.interval import wilson
from onnxqat.graph import input_specs
from onnxqat.initialization import STAGES, InitializationConfig
from onnxqat.placement import PlacementConfig
from onnxqat.recipe import Recipe, read_recipe
from onnxqat.training import FinetuneConfig

TOOLS = Path(__file__).resolve().parent
OUT = TOOLS.parent / "out" / "accuracy"

# What there is to measure ------------------------------------------------------------------------


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
TOGETHER = ("cross_layer_equalization", "smooth_quant", "reconstruct", "bias_correction")
"""The initialization stages that go together, as far as there are such, in their order: of those
that choose how weights are rounded, the strongest."""


@dataclass(frozen=True)
class Row:
    """One way to a model. It starts from another row's model, or from the FP32 one."""

    name: str
    start: str | None = None
    calibrator: str | None = None
    stages: tuple[str, ...] = ()
    loss: str | None = None
    """What it trains on."""


FLOAT_ROWS = (Row("fp32"), Row("control", start="fp32", loss=WITH_LABELS))


def quantized_rows(stages: Sequence[str] = tuple(STAGES)) -> tuple[Row, ...]:
    """The rows of each quantized format."""
    together = tuple(stage for stage in TOGETHER if stage in stages)
    return (
        *(Row(f"ptq-{name}", calibrator=name) for name in CALIBRATORS),
        *(Row(f"init-{name}", start="ptq-auto", stages=(name,)) for name in stages),
        Row("init", start="ptq-auto", stages=together),
        Row("qat", start="ptq-auto", loss="mse"),
        Row("init+qat", start="init", loss="mse"),
        Row("qat-labels", start="ptq-auto", loss=WITH_LABELS),
    )


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
    def steps(self) -> int:
        """Of training."""
        steps = self.model.steps
        return 0 if self.row.loss is None else steps.get(self.format, steps[""])

    @property
    def seconds(self) -> float:
        """What it should take, without the row that it starts from."""
        return 10 + self.steps * self.model.step_seconds + 60 * len(self.row.stages)


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


# What came out -----------------------------------------------------------------------------------


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
            "start": None if start is None else self.key(start),
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


# The bars ----------------------------------------------------------------------------------------

Measure = Literal["sqnr_db", "agreement", "top1", "top1_change"]
WITHOUT_LABELS = ("ptq-auto", "init", "qat", "init+qat")


@dataclass(frozen=True)
class Bar:
    """What one of some rows must reach, in all measures at once."""

    model: str
    format: str
    rows: tuple[str, ...]
    at_least: tuple[tuple[Measure, float], ...]
    whose: str = "ours"


BARS = (
    Bar("resnet20", "int8", WITHOUT_LABELS, (("sqnr_db", 31.0),)),
    Bar("resnet20", "w4a8", WITHOUT_LABELS, (("sqnr_db", 23.0), ("top1_change", 0.0))),
    Bar("resnet20", "w4a4", (*WITHOUT_LABELS, "qat-labels"), (("top1_change", -0.02),)),
    Bar("kwt1", "int8", WITHOUT_LABELS, (("sqnr_db", 27.0),)),
    Bar("kwt1", "w4a8", WITHOUT_LABELS, (("sqnr_db", 20.0), ("agreement", 0.985))),
    Bar("mobilenet", "int8", WITHOUT_LABELS, (("sqnr_db", 21.5), ("agreement", 0.97))),
    Bar("mobilenet", "w4a8", WITHOUT_LABELS, (("agreement", 0.60),)),
)


def _peer(model: str, name: str, row: str, whose: str, **at_least: float) -> Bar:
    """What another tool reached on the same data with as many steps."""
    measures: tuple[Measure, ...] = ("sqnr_db", "agreement", "top1")
    pairs = tuple((measure, at_least[measure]) for measure in measures if measure in at_least)
    return Bar(model, name, (row,), pairs, whose)


PEERS = (
    _peer("resnet20", "int8", "ptq-max", "ModelOpt ONNX max", sqnr_db=27.4),
    _peer("resnet20", "int8", "ptq-entropy", "ONNX Runtime entropy", sqnr_db=24.8),
    _peer("resnet20", "int8", "ptq-percentile", "ONNX Runtime percentile", sqnr_db=26.7),
    _peer("resnet20", "int8", "init", "AIMET sequential MSE, AdaRound", sqnr_db=24.8),
    _peer("resnet20", "w4a8", "ptq-max", "AIMET plain", sqnr_db=11.8),
    _peer("resnet20", "w4a8", "ptq-auto", "AIMET sequential MSE", sqnr_db=14.4),
    _peer("resnet20", "w4a8", "init", "AIMET AdaRound", sqnr_db=18.2, top1=0.915),
    _peer("resnet20", "w4a8", "qat-labels", "ModelOpt QAT, a third of the steps", top1=0.913),
    _peer("resnet20", "int8", "qat-labels", "ModelOpt QAT", top1=0.911),
    _peer("mobilenet", "int8", "ptq-max", "every tool", sqnr_db=14.3),
    _peer("mobilenet", "int8", "ptq-auto", "every tool", sqnr_db=14.3, agreement=0.93),
    _peer("kwt1", "int8", "ptq-max", "ModelOpt ONNX max", sqnr_db=15.6),
    _peer("kwt1", "int8", "ptq-percentile", "ONNX Runtime percentile", sqnr_db=16.1),
    _peer("kwt1", "int8", "ptq-entropy", "ModelOpt ONNX entropy", sqnr_db=23.4),
    _peer("kwt1", "int8", "ptq-auto", "ModelOpt ONNX entropy", sqnr_db=23.4, agreement=0.991),
    _peer("kwt1", "w4a8", "ptq-max", "every tool", sqnr_db=13.0),
    _peer("kwt1", "w4a8", "ptq-mse", "every tool", sqnr_db=12.7),
)
"""From measurements of other tools on these models: the best of each row. MobileNet's were judged
on 500 images, for which they calibrated on 500 others."""

Table = Mapping[tuple[str, str, str], Result]
"""(model, format, row) -> what it came to."""


@dataclass(frozen=True)
class Verdict:
    """What became of a bar."""

    text: str
    state: Literal["met", "missed", "open"]


def verdicts(table: Table, bars: Sequence[Bar] = (*BARS, *PEERS)) -> Iterator[Verdict]:
    """Each bar, and that no training made its start worse."""
    for bar in bars:
        yield _judged(bar, table)
    yield from _trained_against_start(table)


def _judged(bar: Bar, table: Table) -> Verdict:
    """Open as long as a row that might meet it is not there."""
    float_row = table.get((bar.model, FLOAT, "fp32"))
    found = {row: table.get((bar.model, bar.format, row)) for row in bar.rows}
    wanted = " and ".join(f"{name} {_number(name, least)}" for name, least in bar.at_least)
    text = f"{bar.model} {bar.format} {' / '.join(bar.rows)}: {wanted} ({bar.whose})"
    if float_row is None:
        return Verdict(text, "open")
    base = float_row.top1
    reached = {
        row: [(name, result.measure(name, base)) for name, _ in bar.at_least]
        for row, result in found.items()
        if result is not None
    }
    for row, values in reached.items():
        if all(v >= least for (_, v), (_, least) in zip(values, bar.at_least, strict=True)):
            return Verdict(f"{text}: {_told(row, values)}", "met")
    best = max(reached.items(), key=lambda item: item[1][0][1], default=None)
    told = "" if best is None else f": {_told(*best)}"
    return Verdict(text + told, "open" if None in found.values() else "missed")


def _trained_against_start(table: Table) -> Iterator[Verdict]:
    """Training must not lose top-1; without labels, nor signal."""
    for (model, in_format, name), result in table.items():
        row = next(row for row in rows_of(in_format) if row.name == name)
        start = table.get((model, in_format, row.start or ""))
        if row.loss is None or in_format == FLOAT:
            continue
        text = f"{model} {in_format} {name} against {row.start}"
        if start is None:
            yield Verdict(text, "open")
            continue
        measures: tuple[Measure, ...] = (
            ("top1",) if row.loss == WITH_LABELS else ("sqnr_db", "top1")
        )
        for measure in measures:
            after, before = (x.measure(measure, 0.0) for x in (result, start))
            told = f"{measure} {_number(measure, before)} to {_number(measure, after)}"
            yield Verdict(f"{text}: {told}", "met" if after >= before else "missed")


def _told(row: str, values: Sequence[tuple[str, float]]) -> str:
    return f"{row} has " + ", ".join(f"{name} {_number(name, value)}" for name, value in values)


def _number(measure: str, value: float) -> str:
    if measure == "sqnr_db":
        return f"{value:.1f} dB" if isfinite(value) else "∞ dB"
    sign = "+" if measure == "top1_change" else ""
    return f"{100 * value:{sign}.1f} %"


# Making a row ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A model, and how it came about."""

    graph: onnxqat.Graph
    steps: int = 0
    notes: tuple[str, ...] = ()


class Bench:
    """Makes the rows that are not there."""

    def __init__(self, store: Store, *, threads: int) -> None:
        """Work on so many threads, and keep what comes out."""
        self._store = store
        self._threads = threads

    def result(self, job: Job) -> Result:
        """What a line came to, measured now where it was not before."""
        kept = self._store.result(job)
        if kept is not None:
            return kept
        if job.start is not None:
            self.result(job.start)
        say(f"{job.name}: about {job.seconds:.0f} s")
        begin = time.perf_counter()
        made = self._made(job)
        seconds = time.perf_counter() - begin
        path = self._store.model_path(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnxqat.save(made.graph, path)
        result = self._measured(job, made, seconds)
        self._store.put(job, result)
        return result

    def _made(self, job: Job) -> Made:
        if job.row.calibrator is not None:
            return self._quantized(job, job.row.calibrator)
        if job.row.loss is not None:
            return self._trained(job, job.row.loss)
        return self._initialized(job) if job.start is not None else Made(self._prepared(job))

    def _prepared(self, job: Job) -> onnxqat.Graph:
        original = onnxqat.load(job.model.recipe.model)
        if job.format == FLOAT:
            return onnxqat.prepare(original)
        return onnxqat.prepare(original, min_opset=PlacementConfig(format=job.format).min_opset)

    def _quantized(self, job: Job, method: str) -> Made:
        fp32 = self._prepared(job)
        plan = onnxqat.place(fp32, config=PlacementConfig(format=job.format))
        config = CalibrationConfig(method=method, threads=self._threads)
        data = _opened(fp32, job.model.recipe.data.calibration)
        return Made(onnxqat.insert(fp32, plan, onnxqat.calibrate(fp32, plan, data, config=config)))

    def _initialized(self, job: Job) -> Made:
        student, teacher, roles = self._pair(job)
        recipe = job.model.recipe
        config = InitializationConfig(
            stages=job.row.stages, batch_size=recipe.finetune.batch_size, threads=self._threads
        )
        train, validation = roles
        gains = onnxqat.initialize(student, teacher, train, config=config, validation=validation)
        notes = tuple(
            f"{gain.stage} {gain.before_db:.1f} to {gain.after_db:.1f} dB"
            + ("" if gain.kept else ", undone")
            for gain in gains
        )
        return Made(onnxqat.write_back(student), notes=notes)

    def _trained(self, job: Job, loss: str) -> Made:
        student, teacher, roles = self._pair(job)
        config = FinetuneConfig(
            steps=job.steps,
            batch_size=job.model.recipe.finetune.batch_size,
            loss=loss,
            threads=self._threads,
        )
        train, validation = roles
        tuned = onnxqat.finetune(student, teacher, train, config=config, validation=validation)
        best = f"best of step {tuned.best_step}"
        return Made(onnxqat.write_back(tuned.module), len(tuned.history), (best,))

    def _pair(self, job: Job) -> tuple[onnxqat.OnnxModule, onnxqat.OnnxModule, tuple[Any, Any]]:
        """The module to change, its teacher, and the data to learn and to choose by."""
        assert job.start is not None
        fp32, data = self._prepared(job), job.model.recipe.data
        student = onnxqat.to_torch(onnxqat.load(self._store.model_path(job.start)))
        roles = tuple(_opened(fp32, source) for source in (data.train, data.validation))
        return student, onnxqat.to_torch(fp32), (roles[0], roles[1])

    def _measured(self, job: Job, made: Made, seconds: float) -> Result:
        """Against the file as its maker wrote it, on the samples that serve for nothing else."""
        recipe = job.model.recipe
        original = onnxqat.load(recipe.model)
        test = _opened(original, recipe.data.test)
        found = onnxqat.compare(original, made.graph, test, batch_size=recipe.batch_size)
        assert found.candidate_metric is not None
        assert found.agreement is not None
        return Result(
            samples=found.samples,
            top1=found.candidate_metric,
            agreement=found.agreement,
            sqnr_db=found.sqnr_db if isfinite(found.sqnr_db) else None,
            steps=made.steps,
            seconds=round(seconds, 1),
            notes=made.notes,
            state=repository_state(),
        )


def _opened(graph: onnxqat.Graph, source: DataSource | None) -> Any:
    assert source is not None
    return onnxqat.open_data(source.source, input_specs(graph), source)


def repository_state() -> str:
    """The commit that is checked out; empty outside of a repository."""
    command = ["git", "-C", str(TOOLS), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


# The table ---------------------------------------------------------------------------------------


def markdown(found: Mapping[Job, Result]) -> Iterator[str]:
    """The table, in the order of the jobs."""
    yield "| model | format | row | top-1 % (95 %) | agreement % | SQNR dB | steps | seconds |"
    yield "|---|---|---|---|---|---|---|---|"
    for job, result in found.items():
        sqnr = "∞" if result.sqnr_db is None else f"{result.sqnr_db:.1f}"
        simulated = " (simulation)" if job.format == "w4a4" else ""
        cells = (
            job.model.name,
            f"{job.format}{simulated}",
            job.row.name,
            _with_interval(result.top1, result.samples),
            f"{100 * result.agreement:.1f}",
            sqnr,
            str(result.steps or ""),
            f"{result.seconds:.0f}",
        )
        yield f"| {' | '.join(cells)} |"
    states = sorted({result.state for result in found.values()})
    yield f"\nMeasured at {', '.join(filter(None, states)) or 'an unknown state'}."


def _with_interval(share: float, samples: int) -> str:
    low, high = wilson(share, samples) or (0.0, 1.0)
    return f"{100 * share:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def listing(wanted: Sequence[Job], store: Store) -> Iterator[str]:
    """What there is, whether it was measured, and how long the rest should take."""
    left = 0.0
    for job in wanted:
        is_there = store.result(job) is not None
        left += 0 if is_there else job.seconds
        yield f"{job.name}: {'there' if is_there else f'about {job.seconds:.0f} s'}"
    yield f"about {left / 60:.0f} minutes to go"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is asked for, print the table, and judge it."""
    asked = parsed(arguments)
    store = Store(asked.out, threads=asked.threads)
    wanted = jobs(asked.models, asked.formats, asked.rows)
    if asked.list:
        print("\n".join(listing(wanted, store)))
        return 0
    if not asked.print:
        bench = Bench(store, threads=asked.threads)
        for job in wanted:
            bench.result(job)
    found = {job: result for job in wanted if (result := store.result(job)) is not None}
    print("\n".join(markdown(found)))
    judged = list(verdicts(_table(store)))
    for verdict in judged:
        print(f"{verdict.state}: {verdict.text}", file=sys.stderr)
    return int(any(verdict.state == "missed" for verdict in judged))


def _table(store: Store) -> Table:
    """All that was measured, whatever was asked for."""
    every = jobs(tuple(MODELS), FORMATS, ("*",))
    return {
        (job.model.name, job.format, job.row.name): result
        for job in every
        if (result := store.result(job)) is not None
    }


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--formats", nargs="*", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--rows", nargs="+", default=["*"], help="patterns, as 'ptq-*' or qat")
    parser.add_argument("--out", type=Path, default=OUT, help=f"default: {OUT}")
    parser.add_argument("--threads", type=int, default=1)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--list", action="store_true", help="make nothing: what there is to make")
    only.add_argument("--print", action="store_true", help="make nothing: what was made")
    return parser.parse_args(arguments)


def say(line: str) -> None:
    """Progress, beside the table."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

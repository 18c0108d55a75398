"""Accuracy of every way to quantize, on the three pretrained models: one table, row by row.

    python tools/bench_accuracy.py [--models NAME...] [--formats NAME...] [--rows PATTERN...]
                                   [--out FOLDER] [--threads N] [--list | --print]

    fp32            the model as it is
    control         FP32 after the training of `qat-labels`: what more training alone does
    ptq-METHOD      post-training quantization by each calibrator
    init-STAGE      `ptq-auto`, then one initialization stage
    init            `align`, `equalize` and `smooth`, then `ptq-auto`, `reconstruct`, `adaround`
                    and `bias_correction`
    qat             `ptq-auto`, then training without labels
    init+qat        `init`, then training without labels
    qat-labels      `ptq-auto`, then training with labels beside the FP32 outputs

Models, data and what serves for what are those of tools/recipes: what is reported is used for
nothing else. Formats are int8, w4a8, fp8, and w4a4, which is a simulation, and leaves the first and
the last layer at 8 bits, as is usual with so few. Agreement and SQNR are against FP32, top-1 has
its 95 % interval (Wilson), and the time is of the row's own work, without that of the row it starts
from.

Each row is kept in FOLDER as JSON, with the model beside it and a key of all settings that it
comes from: a broken-off table goes on where it stood, and a row whose settings have changed is made
anew. `--rows 'qat*'` makes one part, and what it starts from; `--list` tells what there is and the
time it should take; `--print` makes nothing. Expect four to six hours for the whole table on one
core; on two, two and a half hours with two processes that part the models (`--models resnet20
kwt1`, and `--models mobilenet`) and share the folder. Rows without training take seconds, those
with it 60 to 300 seconds, and a stage of initialization about a minute. Results differ in the last
digits with the number of threads, which is therefore one of the settings.

Exit code 1: a bar is missed (see accuracy_bars.py). One whose rows are not all there is left open.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

from accuracy_bars import Table, verdicts
from accuracy_rows import FLOAT, FORMATS, MODELS, SAMPLES, TOOLS, Job, Result, Store, jobs

import onnxqat
from onnxqat.calibration import CalibrationConfig
from onnxqat.config_file import DataSource
from onnxqat.core.interval import wilson
from onnxqat.core.stage_gain import StageGain
from onnxqat.data import Dataset
from onnxqat.graph import input_specs
from onnxqat.initialization import InitializationConfig
from onnxqat.initializer import equalized
from onnxqat.placement import PlacementConfig
from onnxqat.placement.config import EndPolicy
from onnxqat.training import FinetuneConfig

OUT = TOOLS.parent / "out" / "accuracy"


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
        fp32, notes = self._float_model(job)
        if job.format == FLOAT and job.row.loss is None:
            return Made(fp32)
        if job.row.calibrator is not None:
            start = self._quantized(job, fp32, job.row.calibrator)
        else:
            assert job.start is not None
            start = onnxqat.load(self._store.model_path(job.start))
        if job.row.loss is not None:
            return self._trained(job, (start, fp32), job.row.loss)
        made = self._initialized(job, (start, fp32)) if job.row.qdq_stages else Made(start)
        return replace(made, notes=(*notes, *made.notes))

    def _float_model(self, job: Job) -> tuple[onnxqat.Graph, tuple[str, ...]]:
        """The prepared model, with the stages that it went through, and what they did."""
        recipe = job.model.recipe
        original = onnxqat.load(recipe.model)
        if job.format == FLOAT:
            return onnxqat.prepare(original), ()
        asked = _placement(job)
        prepared = onnxqat.prepare(original, min_opset=asked.min_opset)
        if not job.float_stages:
            return prepared, ()
        data = (
            _opened(prepared, recipe.data.calibration),
            *self._to_learn_from(job, prepared),
        )
        stages = InitializationConfig(
            stages=job.float_stages, samples=SAMPLES, threads=self._threads
        )
        assert job.calibrator is not None
        calibration = CalibrationConfig(method=job.calibrator, threads=self._threads)
        recipe = replace(recipe, placement=asked, calibration=calibration, initialization=stages)
        made = equalized(prepared, recipe, data)
        return made.model, tuple(map(_told, made.gains))

    def _quantized(self, job: Job, fp32: onnxqat.Graph, method: str) -> onnxqat.Graph:
        plan = onnxqat.place(fp32, config=_placement(job))
        config = CalibrationConfig(method=method, threads=self._threads)
        data = _opened(fp32, job.model.recipe.data.calibration)
        return onnxqat.insert(fp32, plan, onnxqat.calibrate(fp32, plan, data, config=config))

    def _initialized(self, job: Job, models: tuple[onnxqat.Graph, onnxqat.Graph]) -> Made:
        student, teacher = (onnxqat.to_torch(model) for model in models)
        train, validation = self._to_learn_from(job, models[1])
        config = InitializationConfig(
            stages=job.row.qdq_stages,
            samples=SAMPLES,
            batch_size=job.model.recipe.finetune.batch_size,
            threads=self._threads,
        )
        gains = onnxqat.initialize(student, teacher, train, config=config, validation=validation)
        return Made(onnxqat.write_back(student), notes=tuple(map(_told, gains)))

    def _trained(self, job: Job, models: tuple[onnxqat.Graph, onnxqat.Graph], loss: str) -> Made:
        student, teacher = (onnxqat.to_torch(model) for model in models)
        train, validation = self._to_learn_from(job, models[1])
        config = FinetuneConfig(
            steps=job.steps,
            batch_size=job.model.recipe.finetune.batch_size,
            loss=loss,
            augment=job.model.recipe.finetune.augment,
            threads=self._threads,
        )
        tuned = onnxqat.finetune(student, teacher, train, config=config, validation=validation)
        best = f"best of step {tuned.best_step}"
        return Made(onnxqat.write_back(tuned.module), tuned.history[-1].step, (best,))

    def _to_learn_from(self, job: Job, fp32: onnxqat.Graph) -> tuple[Dataset, Dataset]:
        """What is trained on, and what chooses the best step."""
        data = job.model.recipe.data
        return _opened(fp32, data.train), _opened(fp32, data.validation)

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
            lost=found.lost,
            gained=found.gained,
            state=repository_state(),
        )


def _placement(job: Job) -> PlacementConfig:
    """With 4-bit activations, the first and the last layer have 8 bits, as in the literature."""
    ends: EndPolicy = "int8" if job.format == "w4a4" else "quantized"
    return PlacementConfig(format=job.format, first_layer=ends, last_layer=ends)


def _told(gain: StageGain) -> str:
    change = f"{gain.stage} {gain.before_db:.1f} to {gain.after_db:.1f} dB"
    return change if gain.kept else f"{change}, undone"


def _opened(graph: onnxqat.Graph, source: DataSource | None) -> Dataset:
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

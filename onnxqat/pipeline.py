"""The whole job: the stages in order. Read this first.

    model.onnx -> prepare -> place -> calibrate -> insert -> initialize -> finetune -> write back
                                                       -> compare, build, audit -> summary, report

Each line of `_all_stages` is a stage that also stands alone, in Python and on the command line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxqat.auditing import AuditConfig, audit
from onnxqat.auditing import Evidence as Measured
from onnxqat.bridge import write_back
from onnxqat.calibration import calibrate, distributions
from onnxqat.config_file import DataSource
from onnxqat.core.calibration import Calibration
from onnxqat.core.comparison import Comparison
from onnxqat.core.distribution import Distribution
from onnxqat.core.engine_plan import EnginePlan
from onnxqat.core.errors import BuildError
from onnxqat.core.finding import Finding
from onnxqat.core.mixed_precision import Mix
from onnxqat.core.plan import QuantPlan
from onnxqat.core.stage_gain import StageGain
from onnxqat.core.summary import StageTime, Summary
from onnxqat.data import Dataset, open_data
from onnxqat.engine import build, compare
from onnxqat.graph import Change, Graph, extract, input_specs, insert, load, prepare
from onnxqat.initializer import Initialized, equalized, initialized
from onnxqat.mixing import mix
from onnxqat.placement import check_precision, place
from onnxqat.recipe import Recipe, read_recipe
from onnxqat.report.provenance import provenance
from onnxqat.report.summarize import CONTROL, INIT, Engines, Evidence, summarize
from onnxqat.run_folder import RUN, RunFolder
from onnxqat.stage_keys import stage_key
from onnxqat.trainer import Trainer, end
from onnxqat.training import Finetuned, StepRecord, interruption
from onnxqat.training.distributed import processes

INNER_SAMPLES = 64
"""Samples on which every inner tensor is looked at."""
OBSERVED_TENSORS = 48
"""Tensors whose distribution is kept; of a large network, those with the largest error."""


def _ignore(_: object) -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class Watch:
    """Who is told what while a run goes on."""

    on_stage: Callable[[str], None] = _ignore
    on_prepared: Callable[[list[Change]], None] = _ignore
    on_finding: Callable[[Finding], None] = _ignore
    """What does not run or learn in the module that is trained."""
    on_gain: Callable[[StageGain], None] = _ignore
    """What an initialization stage did."""
    on_step: Callable[[StepRecord], None] = _ignore


def run(
    recipe: Recipe | Path | str, out: Path | str, *, resume: bool = False, watch: Watch = Watch()
) -> Summary:
    """Fine-tune a model by its recipe and leave every artefact, with the evidence, in `out`.

    Args:
        recipe: The recipe, or the path of its TOML file.
        out: Folder for the artefacts, see `RunFolder`; made where it is missing.
        resume: Go on with the run that was stopped in `out`: calibration and training are taken up
            where they stood. Where there is none, one begins.
        watch: Callbacks for progress.

    Of the processes that torchrun starts the first does all of it, and the others train with it
    (see `trainer`).

    Returns:
        The summary that is also in `out/summary.json`.

    Raises:
        OnnxqatError: Bad input, at whichever stage meets it. Artefacts of the stages before stay.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    original = load(recipe.model)
    data = _open_roles(recipe, original)
    trainer = Trainer(recipe.finetune, data.train, data.validation, Path(out), resume)
    if not processes().is_first:
        return trainer.follow()
    folder = RunFolder(Path(out)).begun(resume=resume)
    return end(_all_stages(recipe, original, data, trainer, folder, watch))


def _all_stages(
    recipe: Recipe,
    original: Graph,
    data: _Roles,
    trainer: Trainer,
    folder: RunFolder,
    watch: Watch,
) -> Summary:
    """The job, stage after stage."""
    clock = _Clock(watch.on_stage)

    with clock.stage("prepare"):
        prepared = _prepared(original, recipe, data, folder, watch)
        fp32 = prepared.model
    with clock.stage("place"):
        plan = place(fp32, config=recipe.placement)
        folder.save_plan(plan)
    key = _key_of_run(recipe, folder)
    if folder.is_done(RUN, key) and (summary := folder.read_summary()) is not None:
        return summary
    with clock.stage("calibrate" if not recipe.mixed_precision.has_budget else "mix"):
        plan, calibration = _calibrated(fp32, plan, data, recipe, folder)
    with clock.stage("insert"):
        ptq = insert(fp32, plan, calibration)
        folder.save_model("ptq", ptq)
    start = _start(ptq, fp32, recipe, data, folder, watch=watch, clock=clock)
    with clock.stage("finetune"):
        tuned = trainer.train(
            "qat", (start.model, fp32), folder, on_step=watch.on_step, on_finding=watch.on_finding
        )
        qat = write_back(tuned.module)
        folder.save_model("qat", qat)
        folder.save_history(tuned)

    _stop_if_interrupted("qat", tuned, folder)
    control = _control(fp32, trainer, folder, watch) if recipe.control else None

    with clock.stage("compare"):
        made = {"PTQ": ptq, **_started(start), "QAT": qat, **_graph_of(control)}
        comparisons = _compare_all(original, made, data.test, recipe)
        folder.save_comparisons(comparisons)
        _look_inside({"FP32": fp32, "PTQ": ptq, "QAT": qat}, data, recipe, folder)
    with clock.stage("build"):
        engines = _build_all({"FP32": fp32, "PTQ": ptq, "QAT": qat}, recipe, folder)
    with clock.stage("audit"):
        findings = (*tuned.module.findings, *_audit(qat, recipe, comparisons, engines))
        folder.save_findings(findings)

    evidence = Evidence(
        fp32=fp32,
        tuned=tuned,
        comparisons=comparisons,
        engines=engines,
        findings=findings,
        file_bytes=folder.model_sizes(),
        initialization=(*prepared.gains, *start.gains),
        control=control,
    )
    summary = summarize(recipe, evidence, clock.times)
    folder.save_summary(summary, provenance(recipe, folder.models()))
    folder.finish(key)
    return summary


def _prepared(
    original: Graph, recipe: Recipe, data: _Roles, folder: RunFolder, watch: Watch
) -> Initialized:
    """The FP32 model in the form that all stages work on, equalized where the recipe says so."""
    changes: list[Change] = []
    fp32 = prepare(original, min_opset=recipe.placement.min_opset, on_change=changes.append)
    check_precision(fp32)
    roles = (data.calibration, data.train, data.validation)
    made = equalized(fp32, recipe, roles, changes.append, watch.on_gain)
    folder.save_prepared(made.model, changes)
    watch.on_prepared(changes)
    return made


@dataclass(frozen=True)
class _Roles:
    """The data sets of a run, opened."""

    calibration: Dataset
    train: Dataset
    validation: Dataset | None
    test: Dataset | None


def _open_roles(recipe: Recipe, graph: Graph) -> _Roles:
    """Open all data before any work: a wrong path should not cost the user an hour."""
    inputs = input_specs(graph)

    def opened(source: DataSource) -> Dataset:
        return open_data(source.source, inputs, source)

    roles = recipe.data
    return _Roles(
        calibration=opened(roles.calibration),
        train=opened(roles.train or roles.calibration),
        validation=opened(roles.validation) if roles.validation is not None else None,
        test=opened(roles.test) if roles.test is not None else None,
    )


def _key_of_run(recipe: Recipe, folder: RunFolder) -> str:
    roles = recipe.data
    sources = (roles.calibration, roles.train, roles.validation, roles.test)
    return stage_key(recipe, folder.digest_of("fp32.onnx", "plan.json"), sources=sources)


def _calibrated(
    fp32: Graph, plan: QuantPlan, data: _Roles, recipe: Recipe, folder: RunFolder
) -> tuple[QuantPlan, Calibration]:
    """The plan, in mixed precision where that has a budget, and its ranges; those that a stopped
    run left, if they would come out the same.
    """
    made_of = (folder.digest_of("fp32.onnx", "plan.json"), recipe.calibration)
    if recipe.mixed_precision.has_budget:
        found = _mixed(fp32, data, recipe, folder, made_of)
        return found.plan, found.calibration
    folder.forget_mix()
    key = stage_key(*made_of, sources=[recipe.data.calibration])
    if folder.is_done("calibrate", key) and (left := folder.read_calibration()) is not None:
        return plan, left
    calibration = calibrate(fp32, plan, data.calibration, config=recipe.calibration)
    folder.save_calibration(calibration)
    folder.mark_done("calibrate", key)
    return plan, calibration


def _mixed(
    fp32: Graph, data: _Roles, recipe: Recipe, folder: RunFolder, made_of: tuple[Any, ...]
) -> Mix:
    """What the budget of mixed precision comes to."""
    sources = [recipe.data.calibration, recipe.data.validation]
    key = stage_key(*made_of, recipe.placement, recipe.mixed_precision, sources=sources)
    left = folder.read_mix() if folder.is_done("mix", key) else None
    if left is not None:
        return left
    found = mix(
        fp32,
        data.calibration,
        config=recipe.mixed_precision,
        placement=recipe.placement,
        calibration=recipe.calibration,
        judge=data.validation,
    )
    folder.save_mix(found)
    folder.mark_done("mix", key)
    return found


def _control(fp32: Graph, trainer: Trainer, folder: RunFolder, watch: Watch) -> Finetuned:
    """The FP32 model after the same training: what of the gain is more training alone."""
    watch.on_stage("control")
    tuned = trainer.train(
        "control", (fp32, fp32), folder, on_step=watch.on_step, on_finding=_ignore
    )
    folder.save_model("control", write_back(tuned.module))
    _stop_if_interrupted("control", tuned, folder)
    return tuned


def _start(
    ptq: Graph,
    fp32: Graph,
    recipe: Recipe,
    data: _Roles,
    folder: RunFolder,
    *,
    watch: Watch,
    clock: _Clock,
) -> Initialized:
    """Where fine-tuning starts: at the quantized model, or where initialization brings it."""
    if not recipe.initialization.qdq_stages:
        return Initialized(ptq, ())
    with clock.stage("initialize"):
        roles = (data.train, data.validation)
        return initialized((ptq, fp32), recipe, roles, folder, watch.on_gain)


def _started(start: Initialized) -> dict[str, Graph]:
    return {INIT: start.model} if start.gains else {}


def _graph_of(control: Finetuned | None) -> dict[str, Graph]:
    return {} if control is None else {CONTROL: write_back(control.module)}


def _stop_if_interrupted(name: str, tuned: Finetuned, folder: RunFolder) -> None:
    """Ctrl-C means stop; what was gained until then is in the folder."""
    if tuned.stopped == "interrupted":
        raise interruption(
            tuned, model=folder.model_path(name), checkpoint=folder.checkpoint_path(name)
        )


def _compare_all(
    original: Graph, candidates: dict[str, Graph], test: Dataset | None, recipe: Recipe
) -> dict[str, Comparison]:
    """The quantized models against the user's own file; nothing without test data."""
    if test is None:
        return {}
    return {
        name: compare(original, model, test, batch_size=recipe.batch_size)
        for name, model in candidates.items()
    }


def _look_inside(models: dict[str, Graph], data: _Roles, recipe: Recipe, folder: RunFolder) -> None:
    """Where in the network the error comes from: of every inner tensor, and of the quantizers."""
    seen = data.test or data.calibration
    inner = {
        name: compare(
            models["FP32"],
            models[name],
            seen,
            layers=True,
            batch_size=recipe.batch_size,
            samples=INNER_SAMPLES,
        )
        for name in ("PTQ", "QAT")
    }
    folder.save_inner_errors(inner)
    folder.save_distributions(_distributions(models["QAT"], inner["QAT"], seen, recipe))


def _distributions(
    qat: Graph, inner: Comparison, data: Dataset, recipe: Recipe
) -> tuple[Distribution, ...]:
    """What the quantizers of the inputs and of the tensors with the largest error meet."""
    plan, calibration = extract(qat)
    worst = sorted(inner.layers, key=lambda error: (error.sqnr_db, error.tensor))
    quantized = {edge.tensor for edge in plan.by_edge}
    names = [tensor.name for tensor in qat.inputs] + [error.tensor for error in worst]
    return distributions(
        qat,
        plan,
        calibration,
        data,
        tensors=[name for name in names if name in quantized][:OBSERVED_TENSORS],
        samples=INNER_SAMPLES,
        batch_size=recipe.batch_size,
    )


def _build_all(models: dict[str, Graph], recipe: Recipe, folder: RunFolder) -> Engines:
    """Compile each model. A refusal is told in the summary: it must not cost the trained model."""
    plans: dict[str, EnginePlan] = {}
    refusals: list[str] = []
    for name, model in models.items() if recipe.build.backend != "none" else ():
        try:
            built = build(
                model,
                backend=recipe.build.backend,
                compute_capability=recipe.build.compute_capability,
                shapes=recipe.build.shapes,
            )
        except BuildError as error:
            refusals.append(f"{name} was not compiled: {error}")
            continue
        plans[name] = built.plan
        folder.save_engine(name.lower(), built.engine, built.plan)
    return Engines(plans, tuple(refusals))


def _audit(
    qat: Graph, recipe: Recipe, comparisons: dict[str, Comparison], engines: Engines
) -> tuple[Finding, ...]:
    """What there is to object to in the fine-tuned model, by the file and by what was measured."""
    drop = recipe.budget.metric_drop
    config = AuditConfig(
        profile=recipe.placement.profile,
        shapes=recipe.build.shapes,
        max_metric_drop=1.0 if drop is None else drop,
    )
    measured = Measured(engine=engines.plans.get("QAT"), comparison=comparisons.get("QAT"))
    return audit(qat, config=config, evidence=measured)


class _Clock:
    """Says which stage begins, and keeps how long each took."""

    def __init__(self, on_stage: Callable[[str], None]) -> None:
        self._on_stage = on_stage
        self._times: list[StageTime] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        self._on_stage(name)
        start = time.perf_counter()
        yield
        self._times.append(StageTime(name, round(time.perf_counter() - start, 3)))

    @property
    def times(self) -> tuple[StageTime, ...]:
        """The stages so far, in order."""
        return tuple(self._times)

"""A run in one table: its evidence in short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite

from onnxqat.core.comparison import Comparison
from onnxqat.core.engine_plan import EnginePlan
from onnxqat.core.finding import Finding
from onnxqat.core.interval import Interval, wilson
from onnxqat.core.precision import HEAVY_OPS, Precision, count_in, node_precisions
from onnxqat.core.stage_gain import StageGain
from onnxqat.core.summary import BudgetCheck, Gain, ModelRow, StageTime, Summary
from onnxqat.graph import Graph
from onnxqat.initialization.config import FLOAT_STAGES
from onnxqat.recipe import Budget, Recipe
from onnxqat.training import Finetuned

INIT = "INIT"
"""PTQ after the initialization stages: where the training starts, if there were any."""
CONTROL = "CONTROL"
"""The FP32 model after the same training: what more training does without quantization."""


@dataclass(frozen=True)
class Engines:
    """What the compiler made of each model, by name, and what it refused."""

    plans: Mapping[str, EnginePlan]
    refusals: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a summary is made of."""

    fp32: Graph
    """As prepared, so that its nodes have names."""
    tuned: Finetuned
    comparisons: Mapping[str, Comparison]
    engines: Engines
    findings: tuple[Finding, ...]
    file_bytes: Mapping[str, int]
    initialization: tuple[StageGain, ...] = ()
    control: Finetuned | None = None
    """The FP32 model after the same training, where that was asked for."""

    @property
    def start(self) -> str:
        """The model that the training started from."""
        is_initialized = any(gain.stage not in FLOAT_STAGES for gain in self.initialization)
        return INIT if is_initialized else "PTQ"


def summarize(recipe: Recipe, evidence: Evidence, times: tuple[StageTime, ...]) -> Summary:
    """The summary of a run; what was not measured is None."""
    comparison = evidence.comparisons.get("QAT")
    plan = evidence.engines.plans.get("QAT")
    return Summary(
        model=recipe.model.name,
        format=recipe.placement.format,
        metric=comparison.metric if comparison is not None else None,
        samples=comparison.samples if comparison is not None else 0,
        target=f"{plan.backend} {plan.target}" if plan is not None else None,
        rows=tuple(_row(name, evidence) for name in _models(evidence)),
        times=times,
        notes=_notes(evidence, recipe),
        budget=tuple(_checks(recipe.budget, comparison)),
        gains=tuple(_gains(evidence)),
        initialization=evidence.initialization,
    )


def _models(evidence: Evidence) -> Iterator[str]:
    """The columns of the table."""
    yield from ("FP32", "PTQ")
    if evidence.start != "PTQ":
        yield evidence.start
    yield "QAT"
    if evidence.control is not None:
        yield CONTROL


def _gains(evidence: Evidence) -> Iterator[Gain]:
    """What the training did, to each model that was trained."""
    found = evidence.comparisons
    if "QAT" in found and "PTQ" in found:
        decibels = found["QAT"].sqnr_db - found["PTQ"].sqnr_db
        before, after = (found[name].metric_change for name in ("PTQ", "QAT"))
        gain = None if before is None or after is None else after - before
        yield Gain("QAT", "PTQ", gain, decibels if isfinite(decibels) else None)
    if CONTROL in found:
        yield Gain(CONTROL, "FP32", found[CONTROL].metric_change, None)


def _checks(budget: Budget, found: Comparison | None) -> Iterator[BudgetCheck]:
    """What was asked for against what was measured; what was not measured is not met."""
    change = found.metric_change if found is not None else None
    lost = None if change is None else -change
    if budget.metric_drop is not None:
        met = lost is not None and lost <= budget.metric_drop
        yield BudgetCheck("metric_drop", budget.metric_drop, lost, met)
    for name in ("agreement", "sqnr_db"):
        least, value = getattr(budget, name), getattr(found, name, None)
        if least is not None:
            yield BudgetCheck(name, least, value, value is not None and value >= least)


def _row(name: str, evidence: Evidence) -> ModelRow:
    heavy = [(node.name, node.op) for node in evidence.fp32.nodes if node.op in HEAVY_OPS]
    plan, found = evidence.engines.plans.get(name), evidence.comparisons.get(name)
    return ModelRow(
        name=name,
        **_accuracy(name, evidence.comparisons),
        metric_interval=_interval("metric", name, evidence.comparisons),
        agreement_interval=_interval("agreement", name, evidence.comparisons),
        metric_change=found.metric_change if found is not None else None,
        metric_change_interval=found.metric_change_interval if found is not None else None,
        int8_nodes=_int8_nodes(plan, heavy) if plan is not None else None,
        heavy_nodes=len(heavy),
        activation_bytes=plan.activation_bytes if plan is not None else None,
        file_bytes=evidence.file_bytes[name],
    )


def _int8_nodes(plan: EnginePlan, heavy: list[tuple[str, str]]) -> int:
    precisions = node_precisions(plan, heavy)
    return sum(count_in(precision, precisions) for precision in (Precision.INT8, Precision.FP8))


def _accuracy(name: str, comparisons: Mapping[str, Comparison]) -> dict[str, float | None]:
    found = comparisons.get(name)
    if found is None:  # the reference itself, or nothing was compared
        any_one = next(iter(comparisons.values()), None)
        metric = any_one.reference_metric if any_one is not None else None
        return {"metric": metric, "agreement": None, "sqnr_db": None}
    return {
        "metric": found.candidate_metric,
        "agreement": found.agreement,
        "sqnr_db": found.sqnr_db,
    }


def _interval(share: str, name: str, comparisons: Mapping[str, Comparison]) -> Interval | None:
    """How sure a share is. The metric is one: it counts right top-1 classes."""
    samples = next((comparison.samples for comparison in comparisons.values()), 0)
    return wilson(_accuracy(name, comparisons)[share], samples)


def _notes(evidence: Evidence, recipe: Recipe) -> tuple[str, ...]:
    """What the reader of the table has to know."""
    tuned, engines = evidence.tuned, evidence.engines
    notes = list(engines.refusals)
    start = evidence.start
    if not evidence.comparisons:
        notes.append("no [data.test] in the recipe, so no accuracy was measured")
    notes += [
        f"samples of [data.test] are also in [data.{role}]: the table flatters"
        for role in recipe.data.seen_before_test()
    ]
    if evidence.control is not None and evidence.control.best_step == 0:
        notes.append("the control did not learn: without quantization the loss has nothing to mend")
    if tuned.best_step == 0:
        notes.append(
            "no step of the training was better than its start by more than chance: "
            f"QAT is {start}, unchanged"
        )
    if tuned.stopped == "non-finite":
        step = tuned.history[-1].step
        notes.append(
            f"training stopped at step {step}, the best is kept: not finite: {tuned.origin}"
        )
    if tuned.stopped == "early":
        step = tuned.history[-1].step
        notes.append(f"training stopped at step {step}: no gain for as long as its patience")
    if any(plan.backend == "rtx" for plan in engines.plans.values()):
        notes.append(
            "compiled without a GPU: that proves which layers run in INT8 and what crosses memory, "
            "not the fused epilogues, and not the speed"
        )
    if evidence.findings:
        notes.append(f"findings of module and audit: {len(evidence.findings)}, see findings.json")
    return tuple(notes)

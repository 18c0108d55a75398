"""A budget is judged by what was measured; what was not measured is not met."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxqat.config_file import DataSource
from onnxqat.core.comparison import Comparison, LayerError
from onnxqat.core.summary import BudgetCheck, Summary
from onnxqat.recipe import Budget, DataRoles, Recipe
from onnxqat.report.summarize import Engines, Evidence, summarize
from onnxqat.training import Finetuned, StepRecord
from tests.support.reports import quantized

MEASURED = Comparison(100, (LayerError("logits", 29.0, 0.1),), 0.98, "top1", 0.90, 0.89)


def summarized(budget: Budget, comparison: Comparison | None) -> Summary:
    fp32, _, _ = quantized()
    recipe = Recipe(
        model=Path("net.onnx"),
        data=DataRoles(calibration=DataSource(source="data.npz")),
        budget=budget,
    )
    evidence = Evidence(
        fp32=fp32,
        tuned=Finetuned(None, (StepRecord(0, 0, None, 0.0, 0.0),), 0, "finished"),  # type: ignore[arg-type]
        comparisons={} if comparison is None else {"QAT": comparison},
        engines=Engines({}, ()),
        findings=(),
        file_bytes=dict.fromkeys(("FP32", "PTQ", "QAT"), 1),
    )
    return summarize(recipe, evidence, ())


@pytest.mark.parametrize(
    ("budget", "is_met"),
    [
        (Budget(metric_drop=0.02), True),
        (Budget(metric_drop=0.005), False),
        (Budget(agreement=0.98), True),
        (Budget(agreement=0.99), False),
        (Budget(sqnr_db=29.0), True),
        (Budget(sqnr_db=29.5), False),
        (Budget(sqnr_db=20.0, agreement=0.99), False),
        (Budget(), True),
    ],
)
def test_each_limit_is_held_against_the_fine_tuned_model(budget, is_met):
    assert summarized(budget, MEASURED).is_within_budget is is_met


def test_what_was_not_measured_is_not_within_budget():
    summary = summarized(Budget(metric_drop=0.5), None)
    assert summary.budget == (BudgetCheck("metric_drop", 0.5, None, False),)
    assert not summary.is_within_budget

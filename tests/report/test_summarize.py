"""A budget is judged by what was measured; what was not measured is not met."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxqat.config_file import DataSource
from onnxqat.core.comparison import Comparison, LayerError
from onnxqat.core.stage_gain import StageGain
from onnxqat.core.summary import BudgetCheck, Summary
from onnxqat.recipe import Budget, DataRoles, Recipe
from onnxqat.report.html.summary import tiles
from onnxqat.report.summarize import Engines, Evidence, summarize
from onnxqat.training import Finetuned, StepRecord
from tests.support.reports import quantized

MEASURED = Comparison(100, (LayerError("logits", 29.0, 0.1),), 0.98, "top1", 0.90, 0.89)


def summarized(
    budget: Budget, comparison: Comparison | None, *gains: StageGain, has_control: bool = False
) -> Summary:
    fp32, _, _ = quantized()
    tuned = Finetuned(None, (StepRecord(0, 0, None, 0.0, 0.0),), 0, "finished")  # type: ignore[arg-type]
    recipe = Recipe(
        model=Path("net.onnx"),
        data=DataRoles(calibration=DataSource(source="data.npz")),
        budget=budget,
    )
    evidence = Evidence(
        fp32=fp32,
        tuned=tuned,
        comparisons={} if comparison is None else {"QAT": comparison},
        engines=Engines({}, ()),
        findings=(),
        file_bytes=dict.fromkeys(("FP32", "PTQ", "INIT", "QAT", "CONTROL"), 1),
        initialization=gains,
        control=tuned if has_control else None,
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


def names(*gains: StageGain) -> list[str]:
    return [row.name for row in summarized(Budget(), MEASURED, *gains).rows]


def test_stages_of_the_fp32_model_make_no_model_between_ptq_and_qat():
    before = StageGain("equalize", 28.0, 29.0, kept=True, seconds=1.0)
    after = StageGain("reconstruct", 29.0, 30.0, kept=True, seconds=1.0)
    assert names() == names(before) == ["FP32", "PTQ", "QAT"]
    assert names(before, after) == names(after) == ["FP32", "PTQ", "INIT", "QAT"]


def test_the_page_shows_the_result_first_also_where_a_control_comes_after_it():
    summary = summarized(Budget(), MEASURED, has_control=True)
    assert summary.rows[-1].name == "CONTROL"
    agreement = next(tile for tile in tiles(summary) if "agreement" in tile.label)
    assert agreement.value == "98.0 %"

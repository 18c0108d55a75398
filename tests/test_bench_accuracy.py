"""The table of accuracies: which rows there are, what is kept of them, and how bars are judged."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from onnxqat.initialization import STAGES
from onnxqat.initialization.config import FLOAT_STAGES

TOOLS = Path(__file__).resolve().parents[1] / "tools"
DIGITS = TOOLS.parent / "models" / "digits" / "model.onnx"
sys.path.insert(0, str(TOOLS))

table_bars = import_module("accuracy_bars")
table_rows = import_module("accuracy_rows")
bench = import_module("bench_accuracy")

RESULT = table_rows.Result(
    samples=1000, top1=0.9, agreement=0.95, sqnr_db=20.0, steps=0, seconds=1.0, state="abc"
)
FLOAT_ROW = replace(RESULT, top1=0.92, agreement=1.0, sqnr_db=None)


def job(model="resnet20", in_format="int8", row="qat"):
    rows = {entry.name: entry for entry in table_rows.rows_of(in_format)}
    return table_rows.Job(table_rows.MODELS[model], in_format, rows[row])


def table(**rows):
    """Rows of ResNet-20 in int8, `_` for `-`, beside the FP32 one."""
    found = {("resnet20", "int8", name.replace("_", "-")): row for name, row in rows.items()}
    return {("resnet20", "fp32", "fp32"): FLOAT_ROW} | found


BAR = table_bars.Bar(
    "resnet20", "int8", ("ptq-auto", "qat"), (("sqnr_db", 25.0), ("top1_change", -0.01))
)


def state(*bars, **rows):
    return [verdict.state for verdict in table_bars.verdicts(table(**rows), bars)]


def test_every_bar_is_about_a_row_that_there_is():
    for bar in (*table_bars.BARS, *table_bars.PEERS):
        names = {row.name for row in table_rows.rows_of(bar.format)}
        assert bar.model in table_rows.MODELS
        assert set(bar.rows) <= names


def test_each_initialization_stage_has_a_row_and_each_row_a_start_that_there_is():
    rows = {row.name: row for row in table_rows.quantized_rows()}
    assert {f"init-{stage}" for stage in (*FLOAT_STAGES, *STAGES)} <= rows.keys()
    assert {row.start for row in rows.values()} <= {None, *rows}


def test_each_stage_has_a_row_and_those_that_gain_together_have_one():
    rows = {row.name: row for row in table_rows.quantized_rows(("equalize", "adaround"))}
    assert rows["init"].stages == table_rows.TOGETHER
    assert rows["init-adaround"].stages == ("adaround",)
    assert set(table_rows.TOGETHER) <= {*FLOAT_STAGES, *STAGES}


def test_what_changes_the_fp32_model_comes_before_calibration():
    rows = {row.name: row for row in table_rows.quantized_rows(("equalize", "adaround"))}
    row, after = rows["init-equalize"], rows["init-adaround"]
    assert (row.start, row.calibrator) == (None, "auto")
    assert (row.float_stages, row.qdq_stages) == (("equalize",), ())
    assert (after.start, after.calibrator) == ("ptq-auto", None)
    assert job(row="init+qat").float_stages == FLOAT_STAGES


def test_a_bar_is_met_by_one_row_that_reaches_all_of_it():
    good = replace(RESULT, sqnr_db=25.0, top1=0.91)
    assert state(BAR, ptq_auto=good) == ["met"]


def test_two_rows_that_reach_a_part_each_miss_a_bar():
    loud, sharp = replace(RESULT, sqnr_db=30.0, top1=0.8), replace(RESULT, top1=0.92)
    assert state(BAR, ptq_auto=loud, qat=sharp)[0] == "missed"


def test_a_bar_is_open_while_a_row_that_could_meet_it_is_not_there():
    assert state(BAR, ptq_auto=RESULT) == ["open"]
    assert [x.state for x in table_bars.verdicts({}, [BAR])] == ["open"]


@pytest.mark.parametrize(
    ("row", "after", "states"),
    [
        ("qat", {"sqnr_db": 21.0}, ["met", "met"]),
        ("qat", {"sqnr_db": 19.0}, ["missed", "met"]),
        ("qat", {"top1": 0.89}, ["met", "missed"]),
        ("qat-labels", {"sqnr_db": 19.0}, ["met"]),  # labels pull away from FP32
        ("qat-labels", {"top1": 0.89}, ["missed"]),
    ],
)
def test_training_must_not_make_its_start_worse(row, after, states):
    trained = {row.replace("-", "_"): replace(RESULT, **after)}
    assert state(ptq_auto=RESULT, **trained) == states


def test_a_result_is_kept_for_the_settings_that_it_comes_from(tmp_path):
    store = table_rows.Store(tmp_path, threads=1)
    store.put(job(), RESULT)
    assert store.result(job()) == RESULT
    assert store.result(job(row="qat-labels")) is None
    assert table_rows.Store(tmp_path, threads=2).result(job()) is None


def test_a_row_is_made_anew_where_its_start_has_other_settings(monkeypatch):
    store = table_rows.Store(Path(), threads=1)
    before = store.key(job(row="init+qat"))
    monkeypatch.setattr(table_rows, "TOGETHER", ("bias_correction",))
    assert store.key(job(row="init+qat")) != before


def test_a_file_that_was_broken_off_counts_as_absent(tmp_path):
    store = table_rows.Store(tmp_path, threads=1)
    store.put(job(), RESULT)
    path = tmp_path / "resnet20.int8.qat.json"
    path.write_text(path.read_text()[:40])
    assert store.result(job()) is None


class Counting(bench.Bench):
    """Makes nothing, and notes what it would make."""

    made: list[str]

    def _made(self, wanted):
        self.made.append(wanted.row.name)
        return bench.Made(bench.onnxqat.load(DIGITS))

    def _measured(self, wanted, made, seconds):
        return RESULT


def test_a_row_makes_what_it_starts_from_once_and_goes_on_where_it_stood(tmp_path):
    for expected in (["ptq-auto", "qat", "qat-labels"], []):
        counting = Counting(table_rows.Store(tmp_path, threads=1), threads=1)
        counting.made = []
        counting.result(job(row="qat"))
        counting.result(job(row="qat-labels"))
        assert counting.made == expected


def test_the_table_has_the_interval_of_wilson():
    result = replace(RESULT, top1=0.968, sqnr_db=None)
    lines = list(bench.markdown({job(): result}))
    # (0.968 + z²/2000 ± z·√(0.968·0.032/1000 + z²/4e6)) / (1 + z²/1000) with z = 1.96
    assert lines[2] == "| resnet20 | int8 | qat | 96.8 (95.5 to 97.7) | 95.0 | ∞ |  | 1 |"
    assert lines[-1] == "\nMeasured at abc."


def test_the_filters_choose_rows_and_fp32_beside_them():
    chosen = table_rows.jobs(["kwt1"], ["fp8"], ["ptq-m*"])
    names = [entry.name for entry in chosen]
    assert names == ["kwt1.fp32.fp32", "kwt1.fp8.ptq-max", "kwt1.fp8.ptq-mse"]


@pytest.mark.parametrize(("sqnr_db", "code"), [(28.0, 0), (10.0, 1)])
def test_the_exit_code_tells_whether_a_bar_is_missed(tmp_path, capsys, sqnr_db, code):
    store = table_rows.Store(tmp_path, threads=1)
    store.put(job(row="ptq-max"), replace(RESULT, sqnr_db=sqnr_db))
    store.put(job(in_format="fp32", row="fp32"), FLOAT_ROW)
    assert bench.main(["--print", "--out", str(tmp_path)]) == code
    assert f"| {sqnr_db:.1f} |" in capsys.readouterr().out


def test_settings_name_no_folder_of_this_machine():
    settings = table_rows.Store(Path(), threads=1).settings(job())
    assert str(TOOLS.parent) not in json.dumps(settings)

"""The control: what the same training does to the FP32 model, beside the quantized one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import onnxqat
from onnxqat.core.errors import ConfigError
from onnxqat.core.interval import wilson
from onnxqat.recipe import read_recipe
from tests.support.nets import write_net

RECIPE = """
model = "net.onnx"
control = true
[data.calibration]
source = "data.npz"
samples = 128
[data.validation]
source = "data.npz"
start = 128
samples = 32
[data.test]
source = "data.npz"
start = {start}
samples = 96
[placement]
format = "w4a8"
[finetune]
steps = 40
batch_size = 16
lr = 0.03
loss = "{loss}"
[build]
backend = "none"
"""


def recipe(folder: Path, *, loss: str = "labels", start: int = 160) -> Path:
    """Of a net whose labels are all one class: there is much to gain by training it."""
    write_net(folder, samples=256)
    arrays = dict(np.load(folder / "data.npz"))
    arrays["labels"] = np.full(256, 2)
    np.savez(folder / "data.npz", **arrays)
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(loss=loss, start=start))
    return path


def test_more_training_alone_is_told_from_what_it_does_to_the_quantized_model(tmp_path):
    summary = onnxqat.run(recipe(tmp_path), tmp_path / "out")
    rows = {row.name: row for row in summary.rows}
    assert list(rows) == ["FP32", "PTQ", "QAT", "CONTROL"]
    gains = {gain.model: gain for gain in summary.gains}
    for model, start in (("QAT", "PTQ"), ("CONTROL", "FP32")):
        gained = rows[model].metric - rows[start].metric
        assert gains[model].start == start
        assert gains[model].metric == pytest.approx(gained)
    assert gains["CONTROL"].metric > 0.1, "the labels are meant to be worth training for"
    assert (tmp_path / "out" / "control.onnx").exists()


def test_shares_come_with_their_intervals(tmp_path):
    summary = onnxqat.run(recipe(tmp_path), tmp_path / "out")
    qat = next(row for row in summary.rows if row.name == "QAT")
    assert qat.metric_interval == wilson(qat.metric, 96)
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"][2]
    assert stored["agreement_interval"] == list(wilson(qat.agreement, 96))


def test_a_loss_that_only_imitates_teaches_the_control_nothing_and_that_is_said(tmp_path):
    summary = onnxqat.run(recipe(tmp_path, loss="mse"), tmp_path / "out")
    rows = {row.name: row for row in summary.rows}
    assert rows["CONTROL"].metric == rows["FP32"].metric
    assert any("control did not learn" in note for note in summary.notes)


def test_to_choose_by_what_is_reported_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\[data.validation\] and \[data.test\] share samples"):
        read_recipe(recipe(tmp_path, start=159))


def test_to_report_on_what_was_trained_on_is_told(tmp_path):
    path = recipe(tmp_path)
    path.write_text(path.read_text().replace("samples = 128", "samples = 161"))
    summary = onnxqat.run(path, tmp_path / "out")
    assert "samples of [data.test] are also in [data.train]: the table flatters" in summary.notes

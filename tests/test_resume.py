"""`run --resume`: a run that was cut off goes on where it stood, to the same end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import onnxqat
from onnxqat import pipeline
from onnxqat.core.errors import ConfigError
from onnxqat.pipeline import Watch
from onnxqat.training import StepRecord
from tests.support.nets import write_net

RECIPE = """
model = "net.onnx"
[data.calibration]
source = "data.npz"
samples = 32
[data.test]
source = "data.npz"
start = 32
[finetune]
steps = 12
batch_size = 16
lr = {lr}
checkpoint_steps = 2
[build]
backend = "none"
"""


class CutError(Exception):
    pass


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_net(tmp_path)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(lr=0.005))
    return path


def cut(recipe: Path, out: Path, step: int = 7) -> None:
    def stop(record: StepRecord) -> None:
        if record.step == step:
            raise CutError

    with pytest.raises(CutError):
        onnxqat.run(recipe, out, watch=Watch(on_step=stop))


def forbid(monkeypatch: pytest.MonkeyPatch, *stages: str) -> None:
    for stage in stages:
        monkeypatch.setattr(pipeline, stage, lambda *_, **__: pytest.fail("was done again"))


def test_a_resumed_run_leaves_the_same_model_and_does_not_calibrate_again(
    recipe, tmp_path, monkeypatch
):
    onnxqat.run(recipe, tmp_path / "whole")
    cut(recipe, tmp_path / "cut")
    forbid(monkeypatch, "calibrate")
    taken: list[int] = []
    watch = Watch(on_step=lambda record: taken.append(record.step))
    onnxqat.run(recipe, tmp_path / "cut", resume=True, watch=watch)
    assert taken[0] == 7  # a checkpoint was due after step 6
    whole, resumed = ((tmp_path / name / "qat.onnx").read_bytes() for name in ("whole", "cut"))
    assert whole == resumed


def test_a_run_cut_off_behind_the_training_does_not_train_again(recipe, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise CutError

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_compare_all", fail)
        with pytest.raises(CutError):
            onnxqat.run(recipe, tmp_path / "out")
    taken: list[StepRecord] = []
    onnxqat.run(recipe, tmp_path / "out", resume=True, watch=Watch(on_step=taken.append))
    assert taken == []
    lines = (tmp_path / "out" / "history.csv").read_text().splitlines()
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert len(lines) == 1 + len(history) == 14


def test_to_resume_a_complete_run_is_to_read_its_table(recipe, tmp_path, monkeypatch):
    summary = onnxqat.run(recipe, tmp_path / "out")
    forbid(monkeypatch, "calibrate", "insert", "_compare_all")
    assert onnxqat.run(recipe, tmp_path / "out", resume=True) == summary


def test_an_unfinished_run_is_not_overwritten_unasked(recipe, tmp_path):
    cut(recipe, tmp_path / "out")
    with pytest.raises(ConfigError, match="--resume"):
        onnxqat.run(recipe, tmp_path / "out")


def test_an_unfinished_run_of_another_recipe_is_refused(recipe, tmp_path):
    cut(recipe, tmp_path / "out")
    recipe.write_text(RECIPE.format(lr=0.01))
    with pytest.raises(ConfigError, match=r"lr was 0\.005 and is 0\.01"):
        onnxqat.run(recipe, tmp_path / "out", resume=True)


def test_calibration_data_written_anew_is_read_anew(recipe, tmp_path):
    cut(recipe, tmp_path / "out")
    arrays = dict(np.load(tmp_path / "data.npz"))
    np.savez(tmp_path / "data.npz", **{**arrays, "image": 2 * arrays["image"]})
    with pytest.raises(
        ConfigError, match="the Q/DQ model is another; the training data is another"
    ):
        onnxqat.run(recipe, tmp_path / "out", resume=True)


def test_a_complete_run_leaves_nothing_to_go_on_from(recipe, tmp_path):
    onnxqat.run(recipe, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.checkpoint"))

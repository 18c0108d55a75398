"""The models that the project ships: what their folders promise is so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxqat.recipe import read_recipe

MODELS = Path(__file__).resolve().parents[1] / "models"
FOLDERS = sorted(path.parent for path in MODELS.glob("*/model.onnx"))

pytestmark = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def rows(folder: Path, file: str) -> set[bytes]:
    with np.load(folder / file) as arrays:
        return {image.tobytes() for image in arrays["image"]}


def test_the_model_is_valid_and_knows_nothing_of_quantization(folder):
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph.node}


def test_the_files_are_small(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000


def test_no_test_sample_was_trained_on(folder):
    assert not rows(folder, "train.npz") & rows(folder, "test.npz")


def test_the_recipe_uses_each_sample_for_one_thing_only(folder):
    data = read_recipe(folder / "recipe.toml").data
    with np.load(folder / "train.npz") as arrays:
        size = len(arrays["image"])
    roles = (data.calibration, data.train, data.validation)
    used = [
        index
        for role in roles
        for index in range(role.start, size if role.samples is None else role.start + role.samples)
    ]
    assert sorted(used) == list(range(size))
    assert Path(data.test.source).name == "test.npz"


def test_the_fp32_accuracy_is_the_expected_one(folder):
    expected = json.loads((folder / "expected.json").read_text())
    with np.load(folder / "test.npz") as arrays:
        images, labels = arrays["image"], arrays["labels"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (logits,) = session.run(None, {"image": images})
    right = int((logits.argmax(1) == labels).sum())
    # One image may fall on the other side where another processor sums in another order.
    assert abs(right - expected["fp32"] * len(labels)) <= 1

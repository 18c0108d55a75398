"""Provenance names files, programs and settings, and no folder of anybody's machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx

from onnxqat.config_file import DataSource
from onnxqat.recipe import DataRoles, Recipe
from onnxqat.report.provenance import provenance, provenance_of
from tests.support.nets import residual_net


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def recipe(folder: Path) -> Recipe:
    onnx.save(residual_net(), folder / "net.onnx")
    (folder / "loader.py").write_text("def load(): ...")
    return Recipe(
        model=folder / "net.onnx",
        data=DataRoles(
            calibration=DataSource(source=f"{folder}/loader.py:load", mean=(0.5, 0.25)),
            train=DataSource(source="my.module:batches"),
        ),
    )


def test_the_file_of_a_loader_is_hashed_and_a_module_is_not(tmp_path):
    found = provenance(recipe(tmp_path), {})
    assert [(file.role, file.name) for file in found.files] == [
        ("model", "net.onnx"), ("calibration data", "loader.py"),
    ]  # fmt: skip
    assert found.files[0].sha256 == sha256(tmp_path / "net.onnx")


def test_settings_are_flat_and_hold_the_defaults(tmp_path):
    settings = {s.key: s.value for s in provenance(recipe(tmp_path), {}).settings}
    assert settings["data.calibration.source"] == "loader.py:load"
    assert settings["data.calibration.mean"] == "0.5, 0.25"
    assert settings["data.test"] == "–"
    assert settings["build.compute_capability"] == "8, 9"


def test_no_folder_of_the_machine_is_told(tmp_path):
    assert str(tmp_path) not in repr(provenance(recipe(tmp_path), {"qat": tmp_path / "net.onnx"}))


def test_weights_in_a_file_of_their_own_are_hashed_too(tmp_path):
    model = tmp_path / "net.onnx"
    onnx.save(
        residual_net(), model, save_as_external_data=True, location="net.data", size_threshold=0
    )
    found = {file.role: file for file in provenance_of(model).files}
    assert found["model weights"].name == "net.data"
    assert found["model weights"].sha256 == sha256(tmp_path / "net.data")


def test_a_file_outside_the_models_folder_is_never_read(tmp_path):
    (tmp_path / "secret").write_text("not the model's")
    model = residual_net()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "net.onnx"
    path.write_bytes(model.SerializeToString())
    assert [file.role for file in provenance_of(path).files] == ["model"]

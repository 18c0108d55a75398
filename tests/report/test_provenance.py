"""Provenance names files, programs and settings, and no folder of anybody's machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

from onnxqat.config_file import DataSource
from onnxqat.recipe import DataRoles, Recipe
from onnxqat.report.provenance import provenance


def recipe(folder: Path) -> Recipe:
    (folder / "net.onnx").write_bytes(b"a model")
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
    assert found.files[0].sha256 == hashlib.sha256(b"a model").hexdigest()


def test_settings_are_flat_and_hold_the_defaults(tmp_path):
    settings = {s.key: s.value for s in provenance(recipe(tmp_path), {}).settings}
    assert settings["data.calibration.source"] == "loader.py:load"
    assert settings["data.calibration.mean"] == "0.5, 0.25"
    assert settings["data.test"] == "–"
    assert settings["build.compute_capability"] == "8, 9"


def test_no_folder_of_the_machine_is_told(tmp_path):
    assert str(tmp_path) not in repr(provenance(recipe(tmp_path), {"qat": tmp_path / "net.onnx"}))

"""`run`: one recipe in, every artefact and one table out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest

import onnxqat
from onnxqat.core.codec import decode
from onnxqat.core.summary import Summary
from onnxqat.report.html import render
from onnxqat.run_folder import read_report
from tests.support.nets import write_net

RECIPE = """
model = "net.onnx"
[data.calibration]
source = "data.npz"
samples = 32
[data.test]
source = "data.npz"
start = 32
[placement]
format = "{format}"
[finetune]
steps = 30
batch_size = 16
[build]
backend = "{backend}"
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    folder = tmp_path_factory.mktemp("run")
    write_net(folder)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(backend="rtx", format="w4a8"))
    return folder, onnxqat.run(recipe, folder / "out")


def test_every_artefact_is_in_the_folder_and_nothing_else(finished):
    folder, _ = finished
    models = ("fp32", "ptq", "qat")
    reports = (
        "changes", "plan", "calibration", "history", "comparison", "inner_errors",
        "distributions", "findings", "summary", "provenance",
    )  # fmt: skip
    assert {path.name for path in (folder / "out").iterdir()} == {
        *(f"{model}.{kind}" for model in models for kind in ("onnx", "engine", "engine.json")),
        *(f"{report}.json" for report in reports),
        "report.html",
        "history.csv",
        "stages.json",
    }


def test_the_summary_on_disk_is_the_one_returned(finished):
    folder, summary = finished
    stored = json.loads((folder / "out" / "summary.json").read_text())
    assert decode(Summary, stored) == summary


def test_the_table_counts_what_was_compiled_and_reports_on_test_data(finished):
    _, summary = finished
    fp32, ptq, qat = summary.rows
    assert (fp32.int8_nodes, ptq.int8_nodes, qat.int8_nodes) == (0, 3, 3)
    assert summary.samples == 32
    assert fp32.metric == 1.0, "the labels are the FP32 model's own answers"
    assert qat.activation_bytes == ptq.activation_bytes


def test_the_page_is_made_of_the_folder_alone_and_is_the_same_each_time(finished):
    folder, _ = finished
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert render(read_report(folder / "out")) == page


def test_a_run_that_ended_early_has_a_page_of_what_there_is(finished, tmp_path):
    folder, _ = finished
    for name in ("fp32.onnx", "ptq.onnx", "plan.json", "history.json"):
        (tmp_path / name).write_bytes((folder / "out" / name).read_bytes())
    report = read_report(tmp_path)
    assert report.subject.label == "after: PTQ"
    page = render(report)
    assert "Nothing was compiled" in page
    assert 'id="summary"' not in page


def test_the_report_holds_what_was_measured(finished):
    folder, summary = finished
    report = read_report(folder / "out")
    assert report.summary == summary
    assert list(report.inner_errors) == ["ptq", "qat"]
    shared = {"stem_out", "sum", "logits"}
    inner = report.inner_errors["qat"]
    assert shared <= {error.tensor for error in (*inner.layers, *inner.outputs)}
    assert {entry.tensor for entry in report.distributions} >= {"image", "stem_out"}
    assert report.engine is not None


def test_the_provenance_tells_hashes_versions_and_defaults(finished):
    folder, _ = finished
    provenance = read_report(folder / "out").provenance
    hashes = {file.role: file.sha256 for file in provenance.files}
    for role, path in {"model": "net.onnx", "test data": "data.npz", "qat": "out/qat.onnx"}.items():
        assert hashes[role] == hashlib.sha256((folder / path).read_bytes()).hexdigest()
    settings = {setting.key: setting.value for setting in provenance.settings}
    assert settings["finetune.steps"] == "30"
    assert settings["calibration.method"] == "auto"
    assert settings["data.test.source"] == "data.npz", "no folder of the user's machine"
    assert {"onnxqat", "python", "torch"} <= {entry.name for entry in provenance.versions}


def test_the_users_file_is_not_changed(finished):
    folder, _ = finished
    again = folder / "again"
    write_net(again)
    assert (folder / "net.onnx").read_bytes() == (again / "net.onnx").read_bytes()


def test_qat_differs_from_ptq_in_initializer_values_only(finished):
    folder, _ = finished
    ptq, qat = (onnx.load(folder / "out" / f"{name}.onnx") for name in ("ptq", "qat"))
    changed = [
        before.name
        for before, after in zip(ptq.graph.initializer, qat.graph.initializer, strict=True)
        if before.raw_data != after.raw_data
    ]
    assert changed, "thirty steps of training move something"
    for model in (ptq, qat):
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
    assert ptq.graph == qat.graph


def test_without_test_data_no_accuracy_is_reported_and_that_is_said(tmp_path):
    write_net(tmp_path)
    recipe = tmp_path / "recipe.toml"
    text = RECIPE.format(backend="none", format="int8").replace(
        '[data.test]\nsource = "data.npz"\nstart = 32', ""
    )
    recipe.write_text(text)
    summary = onnxqat.run(recipe, tmp_path / "out")
    assert {row.sqnr_db for row in summary.rows} == {None}
    assert any("data.test" in note for note in summary.notes)

"""Initialization as a stage of `onnxqat run`, and as a command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxqat
from onnxqat import initializer
from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.cli.main import main
from onnxqat.core.stage_gain import StageGain
from onnxqat.data import open_data
from onnxqat.engine import compare
from onnxqat.graph import input_specs, insert, load, prepare, save
from onnxqat.graph.channel_groups import Group, groups
from onnxqat.graph.names import Names
from onnxqat.graph.rescale import rescale
from onnxqat.initialization import STAGES, InitializationConfig
from onnxqat.pipeline import Watch
from onnxqat.placement import place
from onnxqat.recipe import read_recipe
from onnxqat.run_folder import read_report
from tests.support.nets import write_net

RECIPE = """
model = "net.onnx"
[data.calibration]
source = "data.npz"
samples = 32
[data.train]
source = "data.npz"
samples = 96
[data.test]
source = "data.npz"
start = 96
[placement]
format = "w4a8"
[initialization]
stages = ["equalize", "bias_correction"]
samples = 64
batch_size = 8
[finetune]
steps = 6
batch_size = 16
checkpoint_steps = 2
[build]
backend = "none"
"""


class CutError(Exception):
    pass


def spoil(path: Path) -> None:
    """The same function, with channels whose ranges are far apart."""
    graph = prepare(load(path))
    rng, names = np.random.default_rng(5), Names(graph)
    for group in [found for found in groups(graph) if isinstance(found, Group)]:
        rescale(group, 100 ** rng.uniform(-0.5, 0.5, group.size), names)
    save(graph, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("initialization")
    write_net(path, samples=128)
    spoil(path / "net.onnx")
    (path / "recipe.toml").write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def finished(folder):
    gains: list[StageGain] = []
    summary = onnxqat.run(folder / "recipe.toml", folder / "out", watch=Watch(on_gain=gains.append))
    return folder / "out", summary, gains


def test_the_table_has_the_model_that_training_began_with(finished):
    _, summary, _ = finished
    rows = {row.name: row for row in summary.rows}
    assert list(rows) == ["FP32", "PTQ", "INIT", "QAT"]
    assert rows["INIT"].sqnr_db > rows["PTQ"].sqnr_db, "on test data, that no stage saw"


def test_the_gains_are_in_the_summary_the_folder_and_the_report(finished):
    out, summary, told = finished
    assert list(summary.initialization) == told
    assert [gain.stage for gain in told] == ["equalize", "bias_correction"]
    assert all(gain.kept for gain in told)
    assert all(gain.after_db > gain.before_db for gain in told)
    gain = told[-1]
    (stored,) = json.loads((out / "initialization.json").read_text())
    assert stored["stage"] == gain.stage == "bias_correction"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"bias_correction: {gain.before_db:.1f} dB → {gain.after_db:.1f} dB" in page
    assert read_report(out).summary == summary


@pytest.mark.parametrize("method", ["max", "percentile"])
def test_a_stage_of_the_fp32_model_is_judged_by_the_recipes_calibrator(folder, method):
    recipe = read_recipe(folder / "recipe.toml")
    recipe = replace(recipe, calibration=CalibrationConfig(method, percentile=97.0))
    fp32 = prepare(load(folder / "net.onnx"))
    data = open_data(str(folder / "data.npz"), input_specs(fp32))
    (gain, _) = initializer.equalized(
        fp32,
        replace(recipe, initialization=InitializationConfig(("equalize", "smooth"))),
        (data, data, None),
    ).gains
    plan = place(fp32, config=recipe.placement)
    ranges = calibrate(fp32, plan, data, config=recipe.calibration)
    plain = compare(fp32, insert(fp32, plan, ranges), data).sqnr_db
    assert gain.before_db == pytest.approx(plain, abs=1e-6)


def test_a_stage_that_finds_nothing_to_change_is_not_measured_again(folder, monkeypatch):
    recipe = read_recipe(folder / "recipe.toml")
    recipe = replace(recipe, initialization=InitializationConfig(("smooth",)))
    fp32 = prepare(load(folder / "net.onnx"))
    data = open_data(str(folder / "data.npz"), input_specs(fp32))
    compared: list[object] = []
    monkeypatch.setattr(
        initializer, "compare", lambda *args, **kw: compared.append(args) or compare(*args, **kw)
    )
    (gain,) = initializer.equalized(fp32, recipe, (data, data, None)).gains
    assert gain.kept
    assert gain.after_db == gain.before_db
    assert len(compared) == 1


def test_the_initialized_model_differs_from_ptq_in_values_only(finished):
    out, _, _ = finished
    ptq, init = (onnx.load(out / f"{name}.onnx") for name in ("ptq", "init"))
    changed = [
        a.name
        for a, b in zip(ptq.graph.initializer, init.graph.initializer, strict=True)
        if a.raw_data != b.raw_data
    ]
    assert set(changed) <= {"stem_b", "inner_b", "head_b"}
    assert changed
    for model in (ptq, init):
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
    assert ptq.graph == init.graph


def test_a_run_cut_off_in_training_does_not_initialize_again(finished, folder, monkeypatch):
    def stop(record):
        if record.step == 5:
            raise CutError

    with pytest.raises(CutError):
        onnxqat.run(folder / "recipe.toml", folder / "cut", watch=Watch(on_step=stop))
    monkeypatch.setattr(initializer, "initialize", lambda *_, **__: pytest.fail("done again"))
    taken: list[int] = []
    watch = Watch(on_step=lambda record: taken.append(record.step))
    summary = onnxqat.run(folder / "recipe.toml", folder / "cut", resume=True, watch=watch)
    assert taken[0] == 5
    assert [gain.stage for gain in summary.initialization] == ["equalize", "bias_correction"]
    whole, resumed = ((folder / n / "qat.onnx").read_bytes() for n in ("out", "cut"))
    assert whole == resumed


def test_the_changes_tell_what_became_of_each_layers_channels(finished):
    out, _, _ = finished
    changes = json.loads((out / "changes.json").read_text())
    told = {change["node"]: change["kind"] for change in changes}
    assert told["/stem/Conv"] == "equalize", "with all that the residual ties to it"
    assert "/inner/Conv" not in told, "it is one of these"
    kept = [change["detail"] for change in changes if change["kind"] == "channels kept"]
    assert kept == ["'logits' is an output of the model, or read by nothing"]


def test_the_fp32_models_command_writes_a_model_that_computes_the_same(folder, tmp_path, capsys):
    files = [str(folder / "net.onnx"), "--data", str(folder / "data.npz")]
    assert main(["equalize", *files, "-o", str(tmp_path / "same.onnx"), "--json"]) == 0
    kinds = {change["kind"] for change in json.loads(capsys.readouterr().out)}
    assert "channels kept" in kinds
    onnx.checker.check_model(onnx.load(tmp_path / "same.onnx"))


def test_a_stage_of_the_fp32_model_is_not_for_a_quantized_one(finished, folder, capsys):
    out, _, _ = finished
    files = [str(out / "ptq.onnx"), "--teacher", str(folder / "net.onnx")]
    options = ["--data", str(folder / "data.npz"), "--stages", "smooth", "-o", str(out / "x.onnx")]
    assert main(["initialize", *files, *options]) == 2
    assert "FP32 model" in capsys.readouterr().err


def test_the_command_writes_the_model_and_prints_each_gain(finished, tmp_path, folder, capsys):
    out, _, _ = finished
    command = [
        "initialize",
        *(str(out / "ptq.onnx"), "--teacher", str(folder / "net.onnx")),
        *("--data", str(folder / "data.npz"), "--stages", "bias_correction"),
        *("--samples", "64", "--batch-size", "8", "-o", str(tmp_path / "init.onnx"), "--json"),
    ]
    assert main(command) == 0
    (gain,) = json.loads(capsys.readouterr().out)
    assert gain["kept"]
    onnx.checker.check_model(onnx.load(tmp_path / "init.onnx"))


def test_the_command_names_every_stage_in_its_help(capsys):
    main(["initialize", "--help"])
    told = capsys.readouterr().out
    assert all(stage in told for stage in STAGES)


def test_an_unknown_stage_ends_the_command_with_those_that_there_are(finished, folder, capsys):
    out, _, _ = finished
    files = [str(out / "ptq.onnx"), "--teacher", str(folder / "net.onnx")]
    options = ["--data", str(folder / "data.npz"), "--stages", "magic", "-o", str(out / "x.onnx")]
    assert main(["initialize", *files, *options]) == 2
    assert "bias_correction" in capsys.readouterr().err

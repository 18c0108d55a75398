"""Mixed precision as a section of a recipe, and as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import onnxqat
from onnxqat.cli.main import main
from onnxqat.core.codec import decode
from onnxqat.core.mixed_precision import Mix
from onnxqat.graph import extract, insert, load, prepare
from onnxqat.run_folder import read_report
from tests.support.nets import write_net

RECIPE = """
model = "net.onnx"
[data.calibration]
source = "data.npz"
samples = 64
[placement]
format = "w4a8"
[mixed_precision]
sqnr_db = {budget}
samples = 64
[finetune]
steps = 2
[build]
backend = "none"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mixing")
    write_net(path, samples=96)
    return path


def command(folder: Path, output: str, *more: str) -> list[str]:
    data = str(folder / "data.npz")
    flags = ["--data", data, "--format", "w4a8", "--samples", "64", "-o", str(folder / output)]
    return ["mix", str(folder / "net.onnx"), *flags, *more]


def test_the_command_writes_the_file_that_keeps_the_budget(capsys, folder):
    assert main(command(folder, "mixed.onnx", "--sqnr-db", "32", "--json")) == 0
    found = decode(Mix, json.loads(capsys.readouterr().out))
    assert found.chosen.sqnr_db >= 32
    assert found.changed
    plan, calibration = extract(load(folder / "mixed.onnx"))
    assert (plan, calibration) == (found.plan, found.calibration)


def test_place_tells_of_the_file_why_a_node_is_what_it_is(capsys, folder):
    assert main(command(folder, "told.onnx", "--sqnr-db", "45", "--json")) == 0
    found = decode(Mix, json.loads(capsys.readouterr().out))
    assert {one.format for one in found.changed} >= {"float"}
    for one in found.changed:
        assert main(["place", str(folder / "told.onnx"), "--explain", one.node, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert any("budget 45 dB" in x["reason"] for x in told)


def test_the_table_shows_the_nodes_and_the_curve(capsys, folder):
    assert main(command(folder, "shown.onnx", "--sqnr-db", "45")) == 0
    text = capsys.readouterr().out
    assert "share of the error" in text
    assert "chosen" in text
    assert "budget 45 dB" in text


def test_a_file_in_which_a_budget_leaves_no_qdq_tells_why(capsys, folder):
    assert main(command(folder, "float.onnx", "--sqnr-db", "200")) == 0
    assert "nothing keeps the budget but float" in capsys.readouterr().err
    assert main(["place", str(folder / "float.onnx"), "--why-not", "/inner/Conv", "--json"]) == 0
    assert "budget 200 dB" in capsys.readouterr().out


def test_without_a_budget_it_is_bad_usage(capsys, folder):
    assert main(command(folder, "none.onnx")) == 2
    assert "there is no budget" in capsys.readouterr().err
    assert not (folder / "none.onnx").exists()


def test_a_run_trains_the_mixed_model(folder):
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(budget=32))
    onnxqat.run(recipe, folder / "out")

    found = decode(Mix, json.loads((folder / "out" / "mix.json").read_text()))
    assert found.chosen.is_within_budget
    for name in ("ptq", "qat"):
        assert extract(load(folder / "out" / f"{name}.onnx"))[0] == found.plan
    assert read_report(folder / "out").plan == found.plan
    prepared = prepare(load(folder / "net.onnx"))
    expected = insert(prepared, found.plan, found.calibration)
    assert extract(load(folder / "out" / "ptq.onnx")) == extract(expected)


def test_a_resumed_run_takes_the_plan_that_was_found(folder, monkeypatch):
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(budget=33))

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("onnxqat.pipeline.insert", interrupted)
        with pytest.raises(KeyboardInterrupt):
            onnxqat.run(recipe, folder / "cut")
    monkeypatch.setattr("onnxqat.pipeline.mix", interrupted)
    onnxqat.run(recipe, folder / "cut", resume=True)
    assert (folder / "cut" / "qat.onnx").exists()

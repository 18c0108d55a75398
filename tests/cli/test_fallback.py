"""`--fallback`: a model with an operator that only ONNX Runtime has, through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxqat
from onnxqat.cli.main import main
from tests.support.bridge import runtime

NET = """
<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
net (float[n, 4, 4] x) => (float[n, 4, 4] y)
{
    [inverse] i = com.microsoft.Inverse (x)
    [product] y = MatMul (i, w)
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose first node is frozen, quantized, and data for it."""
    rng = np.random.default_rng(0)
    model = parser.parse_model(NET)
    weight = rng.normal(size=(4, 4)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "net.onnx")
    x = rng.normal(size=(64, 4, 4)).astype(np.float32) + 4 * np.eye(4, dtype=np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path


def arguments(folder: Path) -> list[str]:
    files = {name: str(folder / name) for name in ("net.onnx", "data.npz", "ptq.onnx", "qat.onnx")}
    assert (
        main(["quantize", files["net.onnx"], "--data", files["data.npz"], "-o", files["ptq.onnx"]])
        == 0
    )
    training = ["--teacher", files["net.onnx"], "--data", files["data.npz"], "--steps", "5"]
    return ["finetune", files["ptq.onnx"], *training, "-o", files["qat.onnx"]]


def test_finetune_trains_the_rest_and_says_what_is_frozen(folder, capsys):
    command = arguments(folder)
    assert main([*command, "--fallback", "onnxruntime"]) == 0
    assert "frozen_operator inverse: Inverse runs frozen" in capsys.readouterr().err
    tuned = onnx.load(folder / "qat.onnx")
    assert any(node.op_type == "Inverse" for node in tuned.graph.node)
    x = np.load(folder / "data.npz")["x"]
    assert np.isfinite(runtime(tuned, {"x": x})[0]).all()


def test_without_it_finetune_refuses_and_names_the_flag(folder, capsys):
    command = arguments(folder)
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "com.microsoft.Inverse" in message
    assert "--fallback onnxruntime" in message


def test_a_recipe_asks_for_it_under_finetune(folder):
    recipe = folder / "recipe.toml"
    recipe.write_text(
        'model = "net.onnx"\n[data.calibration]\nsource = "data.npz"\n'
        '[finetune]\nsteps = 5\nfallback = "onnxruntime"\n[build]\nbackend = "none"\n'
    )
    summary = onnxqat.run(recipe, folder / "out")
    findings = json.loads((folder / "out" / "findings.json").read_text())
    assert [f["node"] for f in findings if f["rule"] == "frozen_operator"] == ["inverse"]
    assert any("findings.json" in note for note in summary.notes)


@pytest.mark.parametrize("rule", ["frozen_operator", "qdq_as_written"])
def test_the_findings_of_the_module_have_manual_pages(rule, capsys):
    assert main(["rule", rule]) == 0
    assert "How to fix:" in capsys.readouterr().out

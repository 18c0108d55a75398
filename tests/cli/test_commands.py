"""Each command does its stage, prints its result on stdout and ends with the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxqat.cli import whole
from onnxqat.cli.main import main
from onnxqat.core.codec import decode
from onnxqat.core.comparison import Comparison
from onnxqat.core.engine_plan import EnginePlan
from onnxqat.core.errors import ConfigError
from onnxqat.core.plan import QuantPlan
from onnxqat.core.sensitivity import Sensitivity
from onnxqat.core.spec import QuantDtype
from tests.support.nets import write_net

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network, its data, and the PTQ model that `quantize` makes of them."""
    folder = tmp_path_factory.mktemp("commands")
    model, data = write_net(folder)
    qdq = folder / "ptq.onnx"
    assert main(["quantize", str(model), "--data", str(data), "-o", str(qdq)]) == 0
    return {"model": model, "data": data, "qdq": qdq, "folder": folder}


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> object:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_place_prints_the_plan(capsys, files):
    plan = decode(QuantPlan, as_json(capsys, "place", files["model"]))
    assert {p.edge.tensor for p in plan.placements} >= {"image", "stem_w", "stem_out", "flat"}


def test_place_explains_one_node(capsys, files):
    main(["place", str(files["model"]), "--explain", "/sum/Add"])
    text = capsys.readouterr().out
    assert "residual_add" in text
    assert "/stem/Conv" not in text


def test_why_not_prints_what_of_a_node_stays_in_float_with_its_source(capsys, files):
    told = as_json(capsys, "place", files["model"], "--why-not", "/inner/Conv")
    assert [(x["edge"]["index"], x["format"], x["rule"]) for x in told] == [
        (2, "float", "left_in_float")
    ]
    assert told[0]["source"].startswith("the TensorRT guide")


def test_the_flags_of_placement_reach_the_stage(capsys, files, tmp_path):
    rule = tmp_path / "mine.py"
    rule.write_text(
        "from onnxqat import Skip\nfrom onnxqat.placement import edge_at\n"
        "def mine(scene):\n    yield Skip(edge_at(scene.by_name['/sum/Add'], 0), '', 'mine')\n"
    )
    flags = ["--rule", f"{rule}:mine", "--first-layer", "float", "--profile", "rtx"]
    flags += ["--node-format", "/logits/.*=w4a8", "--exclude-between", "pooled", "flat"]
    plan = decode(QuantPlan, as_json(capsys, "place", files["model"], *flags))
    skipped = {x.edge.node: x.reason for x in plan.skips}
    assert skipped["/stem/Conv"] == "the user keeps first layers float"
    assert skipped["/sum/Add"] == "mine"
    assert "excludes what is between pooled and flat" in skipped["/flat/Flatten"]
    (head,) = [x for x in plan.placements if x.edge.tensor == "head_w"]
    assert plan.spec_of(head.edge).dtype is QuantDtype.INT4_IN_INT8


def test_a_node_format_without_a_format_is_bad_usage(capsys, files):
    assert main(["place", str(files["model"]), "--node-format", "head"]) == 2
    assert "write it as" in capsys.readouterr().err


def test_place_refuses_to_explain_a_node_that_is_not_there(capsys, files):
    assert main(["place", str(files["model"]), "--explain", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err


def test_quantize_leaves_excluded_nodes_in_float(files, tmp_path):
    out = tmp_path / "out.onnx"
    common = ["quantize", str(files["model"]), "--data", str(files["data"]), "-o", str(out)]
    assert main([*common, "--exclude", "/logits/.*"]) == 0
    quantized = {n.input[0] for n in onnx.load(out).graph.node if n.op_type == "QuantizeLinear"}
    assert "image" in quantized
    assert "head_w" not in quantized


def test_quantize_w4a8_stores_4_bit_codes_in_int8(files, tmp_path):
    out = tmp_path / "out.onnx"
    common = ["quantize", str(files["model"]), "--data", str(files["data"]), "-o", str(out)]
    assert main([*common, "--format", "w4a8", "--calibrator", "max"]) == 0
    weights = {t.name: t for t in onnx.load(out).graph.initializer}
    codes = onnx.numpy_helper.to_array(weights["inner_w"])
    assert codes.dtype == np.int8
    assert codes.min() >= -8
    assert 7 >= codes.max() > 1


@pytest.mark.parametrize(
    ("name", "kind", "opset"), [("fp8", "FLOAT8E4M3FN", 19), ("w4a4", "INT4", 21)]
)
def test_quantize_raises_the_opset_for_formats_that_need_it(
    capsys, files, tmp_path, name, kind, opset
):
    out = tmp_path / "out.onnx"
    common = ["quantize", str(files["model"]), "--data", str(files["data"]), "-o", str(out)]
    assert main([*common, "--format", name]) == 0
    assert "raise opset" in capsys.readouterr().err
    model = onnx.load(out)
    zero_points = {t.data_type for t in model.graph.initializer if t.name == "image_zero_point"}
    assert zero_points == {onnx.TensorProto.DataType.Value(kind)}
    assert model.opset_import[0].version == opset
    compared = as_json(capsys, "compare", files["model"], out, "--data", files["data"])
    assert decode(Comparison, compared).sqnr_db > (20 if name == "fp8" else 5)


def test_audit_has_nothing_against_fp8_and_says_that_w4a4_is_no_tensorrt_model(
    capsys, files, tmp_path
):
    found = {}
    for name in ("fp8", "w4a4"):
        out = tmp_path / f"{name}.onnx"
        common = ["quantize", str(files["model"]), "--data", str(files["data"]), "-o", str(out)]
        assert main([*common, "--format", name]) == 0
        capsys.readouterr()
        code = main(["audit", str(out), "--format", "json", "--data", str(files["data"])])
        rules = {x["rule"] for x in json.loads(capsys.readouterr().out)}
        found[name] = (code, "QDQ016" in rules)
    assert found == {"fp8": (0, False), "w4a4": (1, True)}


def test_quantize_does_not_import_torch(files, tmp_path):
    script = (
        "import sys; from onnxqat.cli.main import main; "
        f"code = main(['quantize', {str(files['model'])!r}, '--data', {str(files['data'])!r}, "
        f"'-o', {str(tmp_path / 'out.onnx')!r}]); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'tensorrt_rtx')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("chosen", "does_spin"), [({}, False), ({"OMP_WAIT_POLICY": "ACTIVE"}, True)]
)
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(chosen, does_spin):
    script = "from onnxqat.cli.main import main; main(['--version']); import torch"
    kept = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    said = subprocess.run(
        [sys.executable, "-c", script],
        env={**kept, **chosen, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    if "GOMP_SPINCOUNT" not in said:
        pytest.skip("this build of torch computes with another OpenMP than GNU's")
    assert ("GOMP_SPINCOUNT = '0'" not in said) == does_spin  # as OpenMP itself reports it


def test_quantize_reads_its_data_options_from_a_toml_file(files, tmp_path):
    renamed = tmp_path / "renamed.npz"
    np.savez(renamed, pictures=np.load(files["data"])["image"] * 2 + 1)
    source = tmp_path / "data.toml"
    source.write_text(
        'source = "renamed.npz"\narrays = {image = "pictures"}\nmean = [1.0]\nstd = [2.0]\n'
    )
    out = tmp_path / "out.onnx"
    assert main(["quantize", str(files["model"]), "--data", str(source), "-o", str(out)]) == 0
    assert scales(out) == pytest.approx(scales(files["qdq"]), rel=1e-5)


def scales(path: Path) -> dict[str, float]:
    initializers = onnx.load(path).graph.initializer
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in initializers}
    return {name: float(a) for name, a in arrays.items() if a.size == 1 and a.dtype == np.float32}


def test_compare_measures_error_agreement_and_metric(capsys, files):
    comparison = decode(
        Comparison,
        as_json(capsys, "compare", files["model"], files["qdq"], "--data", files["data"]),
    )
    assert comparison.reference_metric == 1.0, "the labels are the reference's own answers"
    assert comparison.candidate_metric == comparison.agreement
    assert 20 < comparison.sqnr_db < 60


def test_build_writes_an_engine_and_prints_its_layers(capsys, files, tmp_path):
    engine = tmp_path / "net.engine"
    plan = decode(EnginePlan, as_json(capsys, "build", files["qdq"], "-o", engine))
    assert engine.stat().st_size > 1000
    assert any(view.dtype == "Int8" for layer in plan.layers for view in layer.inputs)


def test_audit_is_clean_on_our_own_file(files):
    assert main(["audit", str(files["qdq"])]) == 0


def test_finetune_improves_on_what_it_starts_from(capsys, tmp_path):
    model, train, test = (DIGITS / name for name in ("model.onnx", "train.npz", "test.npz"))
    ptq, out = tmp_path / "ptq.onnx", tmp_path / "qat.onnx"
    quantize = ["quantize", model, "--data", train, "-o", ptq, "--format", "w4a8"]
    finetune = ["finetune", ptq, "--teacher", model, "--data", train, "-o", out]
    for command in (
        [*quantize, "--calibrator", "max"],
        [*finetune, "--steps", 60, "--batch-size", 64],
    ):
        assert main([str(part) for part in command]) == 0
    capsys.readouterr()

    def error(candidate: Path) -> float:
        return decode(
            Comparison, as_json(capsys, "compare", model, candidate, "--data", test)
        ).sqnr_db

    assert error(out) > error(ptq) + 1


def test_finetune_does_not_overwrite_an_unfinished_run_and_goes_on_with_it(
    files, capsys, tmp_path, monkeypatch
):
    out, data = tmp_path / "qat.onnx", files["data"]
    command = ["finetune", str(files["qdq"]), "--teacher", str(files["model"])]
    command += ["--data", str(data), "-o", str(out), "--steps", "6", "--checkpoint-minutes", "1e-9"]

    def fail(*_: object) -> None:
        raise ConfigError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr("onnxqat.bridge.write_back", fail)
        assert main(command) == 2
    checkpoint = tmp_path / "qat.onnx.checkpoint"
    assert checkpoint.exists()
    assert main(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert out.exists()
    assert not checkpoint.exists()


def test_every_rule_has_a_page_and_the_list_names_them_all(capsys):
    assert main(["rule"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"QDQ012", "residual_add"} <= set(names)
    for name in names:
        assert main(["rule", name]) == 0
        assert len(capsys.readouterr().out) > 20


RUN = """
model = "net.onnx"
[data.calibration]
source = "data.npz"
[data.test]
source = "data.npz"
[finetune]
steps = 1
[build]
backend = "none"
[budget]
sqnr_db = {sqnr_db}
"""


@pytest.mark.parametrize(("sqnr_db", "code"), [(1.0, 0), (200.0, 1)])
def test_run_ends_with_1_where_the_budget_is_missed(files, tmp_path, sqnr_db, code):
    recipe = files["folder"] / f"budget{code}.toml"
    recipe.write_text(RUN.format(sqnr_db=sqnr_db))
    assert main(["run", str(recipe), "--out", str(tmp_path / "out")]) == code


def test_report_renders_the_page_of_a_run_again(files, tmp_path):
    recipe = files["folder"] / "again.toml"
    recipe.write_text(RUN.format(sqnr_db=1.0))
    assert main(["run", str(recipe), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.html").read_bytes()
    assert main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_bytes() == page


def test_report_refuses_a_folder_that_holds_no_run(capsys, tmp_path):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("summary.json", '{"model": '),
        ("history.json", '[{"step": "one"}]'),
        ("inner_errors.json", "[1, 2]"),
        ("inner_errors.json", '{"qat": {"samples": 1}}'),
        ("plan.json", "\\ud800"),
    ],
)
def test_report_names_a_damaged_file_of_a_run(capsys, files, tmp_path, name, text):
    (tmp_path / "fp32.onnx").write_bytes(files["model"].read_bytes())
    (tmp_path / name).write_text(text)
    assert main(["report", str(tmp_path)]) == 2
    assert f"{name} is damaged" in capsys.readouterr().err


def test_a_demo_that_was_broken_off_begins_again(tmp_path, monkeypatch):
    (tmp_path / "qat.checkpoint").write_bytes(b"half a demo")
    begun = []
    monkeypatch.setattr(whole, "run", lambda recipe, **_: begun.append(recipe) or 0)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert [recipe.parent.name for recipe in begun] == ["digits"]
    assert not list(tmp_path.iterdir())


def test_sensitivity_ranks_every_quantizer(capsys, files):
    flags = ["--teacher", files["model"], "--data", files["data"], "--samples", "16"]
    found = decode(Sensitivity, as_json(capsys, "sensitivity", files["qdq"], *flags))
    ranked = [one.alone.sqnr_db for one in found.quantizers]
    assert ranked == sorted(ranked)
    assert {"image", "stem_w", "inner_w", "head_w"} <= {one.name for one in found.quantizers}


def test_sensitivity_prints_the_most_sensitive_first(capsys, files):
    flags = ["--teacher", files["model"], "--data", files["data"], "--samples", "16"]
    assert main(["sensitivity", *map(str, (files["qdq"], *flags))]) == 0
    text = capsys.readouterr().out
    assert "all quantizers on" in text
    assert "dB" in text

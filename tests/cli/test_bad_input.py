"""Bad input ends in one clear message, exit code 2, no traceback and no half-written file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxqat.cli.main import main
from tests.support.nets import images, unknown_op_net, write_net


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def net(tmp_path: Path) -> tuple[Path, Path]:
    return write_net(tmp_path / "net")


def assert_refused(
    capsys: pytest.CaptureFixture[str], code: int, *fragments: str, out: Path | None = None
) -> None:
    """Exit code 2, every fragment on stderr, a fix, no traceback, no output file."""
    captured = capsys.readouterr()
    assert code == 2
    for fragment in (*fragments, "fix:"):
        assert fragment in captured.err, captured.err
    assert "Traceback" not in captured.err
    if out is not None:
        assert not out.exists()
        assert not list(out.parent.glob(f".{out.name}*"))


def test_a_missing_model_is_named(capsys, tmp_path, net):
    out = tmp_path / "out.onnx"
    code = run("quantize", tmp_path / "gone.onnx", "--data", net[1], "-o", out)
    assert_refused(capsys, code, "gone.onnx", out=out)


def test_a_file_that_is_no_model_is_named(capsys, tmp_path, net):
    text = tmp_path / "text.onnx"
    text.write_text("this is no model\n" * 20)
    out = tmp_path / "out.onnx"
    code = run("quantize", text, "--data", net[1], "-o", out)
    assert_refused(capsys, code, "text.onnx", out=out)


def test_a_truncated_model_is_named(capsys, tmp_path, net):
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(net[0].read_bytes()[:2000])
    code = run("quantize", truncated, "--data", net[1], "-o", tmp_path / "out.onnx")
    assert_refused(capsys, code, "truncated.onnx", out=tmp_path / "out.onnx")


def with_external_data(net: Path, folder: Path, location: str) -> Path:
    model = onnx.load(net)
    path = folder / "external.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    if location != "weights.bin":
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        path.write_bytes(model.SerializeToString())
    return path


HALF = """<ir_version: 8, opset_import: ["" : 17]>
net (float16[N, 3, 8, 8] x) => (float16[N, 4, 8, 8] y) <float16[4, 3, 1, 1] w = {1, 2, 3, 4, 5, 6,
7, 8, 9, 10, 11, 12}> { [conv] y = Conv (x, w) }"""


@pytest.mark.parametrize("command", ["quantize", "mix", "run"])
def test_a_model_in_half_precision_is_refused(capsys, tmp_path, command):
    model, data, out = tmp_path / "half.onnx", tmp_path / "data.npz", tmp_path / "out.onnx"
    onnx.save(onnx.parser.parse_model(HALF), model)
    np.savez(data, x=np.ones((32, 3, 8, 8), np.float16))
    recipe = tmp_path / "recipe.toml"
    roles = "".join(f'[data.{name}]\nsource = "data.npz"\n' for name in ("calibration", "test"))
    recipe.write_text(f'model = "half.onnx"\n{roles}')
    arguments = {
        "quantize": (model, "--data", data, "-o", out),
        "mix": (model, "--data", data, "--sqnr-db", 20, "-o", out),
        "run": (recipe, "--out", tmp_path / "run"),
    }
    code = run(command, *arguments[command])
    assert_refused(capsys, code, "float16", "'conv'", "float32", out=out)


def test_missing_external_data_is_named(capsys, tmp_path, net):
    path = with_external_data(net[0], tmp_path, "weights.bin")
    (tmp_path / "weights.bin").unlink()
    code = run("quantize", path, "--data", net[1], "-o", tmp_path / "out.onnx")
    assert_refused(capsys, code, "weights.bin", out=tmp_path / "out.onnx")


def test_external_data_outside_the_models_folder_is_refused(capsys, tmp_path, net):
    inside = tmp_path / "inside"
    inside.mkdir()
    path = with_external_data(net[0], inside, "../weights.bin")
    (inside / "weights.bin").rename(tmp_path / "weights.bin")
    code = run("quantize", path, "--data", net[1], "-o", tmp_path / "out.onnx")
    assert_refused(capsys, code, "../weights.bin", out=tmp_path / "out.onnx")


@pytest.mark.parametrize(
    ("arrays", "fragments"),
    [
        ({"picture": images(4)}, ("image", "picture")),
        ({"image": images(4)[:, :2]}, ("image", "3")),
        ({"image": images(4).astype(np.complex64)}, ("image", "complex64")),
        ({"image": np.full_like(images(4), np.nan)}, ("image", "NaN")),
        ({"image": images(4)[:0]}, ("there is no data",)),
    ],
    ids=["wrong name", "wrong shape", "wrong dtype", "NaN", "no samples"],
)
def test_data_that_does_not_fit_is_named(capsys, tmp_path, net, arrays, fragments):
    data = tmp_path / "bad.npz"
    np.savez(data, **arrays)
    code = run("quantize", net[0], "--data", data, "-o", tmp_path / "out.onnx")
    assert_refused(capsys, code, *fragments, out=tmp_path / "out.onnx")


def test_missing_data_is_named(capsys, tmp_path, net):
    code = run("quantize", net[0], "--data", tmp_path / "gone.npz", "-o", tmp_path / "out.onnx")
    assert_refused(capsys, code, "gone.npz", out=tmp_path / "out.onnx")


def test_an_output_folder_that_is_not_there_is_told_before_the_work(capsys, tmp_path, net):
    out = tmp_path / "nowhere" / "out.onnx"
    code = run("quantize", net[0], "--data", net[1], "-o", out)
    assert_refused(capsys, code, "nowhere", out=out)


def test_an_output_folder_that_cannot_be_made_is_told(capsys, tmp_path, net):
    blocked = tmp_path / "file"
    blocked.write_text("")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'model = "{net[0]}"\n[data.calibration]\nsource = "{net[1]}"\n')
    assert_refused(capsys, run("run", recipe, "--out", blocked / "out"), "output folder")


def test_the_users_own_file_is_not_overwritten(capsys, net):
    before = net[0].read_bytes()
    code = run("quantize", net[0], "--data", net[1], "-o", net[0])
    assert_refused(capsys, code, "not overwritten")
    assert net[0].read_bytes() == before


def test_a_model_without_qdq_is_not_fine_tuned(capsys, tmp_path, net):
    out = tmp_path / "out.onnx"
    code = run("finetune", net[0], "--teacher", net[0], "--data", net[1], "-o", out)
    assert_refused(capsys, code, "no Q/DQ pair", "onnxqat quantize", out=out)


def test_unknown_ops_are_listed_together(capsys, tmp_path, net):
    path = tmp_path / "unknown.onnx"
    onnx.save(unknown_op_net(), path)
    data = tmp_path / "x.npz"
    np.savez(data, x=np.zeros((4, 3), np.float32))
    out = tmp_path / "out.onnx"
    code = run("finetune", path, "--teacher", net[0], "--data", data, "-o", out)
    assert_refused(capsys, code, "Wobble", "Wibble", "first", "second", out=out)


@pytest.mark.parametrize(
    ("body", "fragments"),
    [
        ("def loss(student, teacher, labels):\n    return student['nothing'].sum()", ("line 2",)),
        ("def loss(student teacher)", ("line 1", "SyntaxError")),
        ("import nothing_of_this_name", ("nothing_of_this_name",)),
    ],
)
def test_a_loss_that_fails_is_named_with_its_line(capsys, tmp_path, net, body, fragments):
    model, data = net
    quantized, loss = tmp_path / "ptq.onnx", tmp_path / "mine.py"
    assert run("quantize", model, "--data", data, "-o", quantized) == 0
    loss.write_text(body)
    arguments = ["--teacher", model, "--data", data, "--loss", f"{loss}:loss"]
    out = tmp_path / "qat.onnx"
    code = run("finetune", quantized, *arguments, "-o", out)
    captured = capsys.readouterr()
    assert code == 2
    for fragment in ("mine.py", *fragments):
        assert fragment in captured.err
    assert "Traceback" not in captured.err
    assert not out.exists()


def test_a_misspelt_key_of_a_recipe_is_named(capsys, tmp_path, net):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'model = "{net[0]}"\n[data.calibration]\nsource = "{net[1]}"\n[finetune]\nsteeps = 3\n'
    )
    assert_refused(capsys, run("run", recipe, "--out", tmp_path / "out"), "finetune.steeps")


def test_a_recipe_that_is_no_toml_is_named(capsys, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("model = \n")
    assert_refused(capsys, run("run", recipe, "--out", tmp_path / "out"), "recipe.toml", "TOML")


@pytest.mark.parametrize(
    "arguments", [("quantise",), ("quantize",), ("quantize", "m.onnx", "--sampels", "3")]
)
def test_bad_usage_says_where_the_help_is(capsys, arguments):
    assert_refused(capsys, run(*arguments), "--help")


@pytest.fixture
def heeds_ctrl_c():
    """A shell that runs the tests in the background makes them, and what they start, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_in_any_command_is_answered_with_nothing_written(tmp_path, net, capsys):
    loader = tmp_path / "loader.py"
    loader.write_text(
        "import signal\ndef load_data():\n    signal.raise_signal(signal.SIGINT)\n    yield {}\n"
    )
    out = tmp_path / "out.onnx"
    code = run("quantize", net[0], "--data", f"{loader}:load_data", "-o", out)
    assert code == 2
    assert "interrupted; nothing half-written was left" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_in_training_keeps_the_best_so_far(tmp_path, net):
    qdq, out = tmp_path / "qdq.onnx", tmp_path / "qat.onnx"
    assert run("quantize", net[0], "--data", net[1], "-o", qdq) == 0
    command = [sys.executable, "-m", "onnxqat", "finetune", qdq, "--teacher", net[0]]
    command += ["--data", net[1], "-o", out, "--steps", "100000", "--print-every", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = wait_for_line(process.stderr, "step 5/")
        process.send_signal(signal.SIGINT)
        seen += process.stderr.read()
        assert process.wait(60) == 2, seen
    assert "interrupted at step" in seen
    assert str(out) in seen
    assert ("go on by --resume" in seen) == out.with_name("qat.onnx.checkpoint").exists()
    assert "Traceback" not in seen
    onnx.checker.check_model(str(out))


def wait_for_line(stream, fragment: str) -> str:
    seen, deadline = "", time.monotonic() + 120
    while fragment not in seen and time.monotonic() < deadline:
        seen += stream.readline()
    return seen


def test_resuming_where_nothing_was_begun_is_said(capsys, tmp_path, net):
    qdq, out = tmp_path / "qdq.onnx", tmp_path / "qat.onnx"
    assert run("quantize", net[0], "--data", net[1], "-o", qdq) == 0
    arguments = ["--teacher", net[0], "--data", net[1], "--steps", 1, "--resume"]
    assert run("finetune", qdq, *arguments, "-o", out) == 0
    assert "qat.onnx.checkpoint to go on from" in capsys.readouterr().err.replace("\n", "")

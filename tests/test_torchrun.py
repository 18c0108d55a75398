"""Several processes, started by torchrun, train what one process would have trained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxqat
from tests.support.nets import write_net

HERE = Path(__file__).parents[1]
RECIPE = """
model = "net.onnx"
control = true
[data.calibration]
source = "data.npz"
samples = 256
[data.validation]
source = "data.npz"
start = 256
[placement]
format = "w4a8"
[finetune]
steps = 20
batch_size = 32
validate_every = 20
checkpoint_steps = 5
loss = "{loss}"
[build]
backend = "none"
"""
INITIALIZATION = """
[initialization]
stages = ["equalize", "reconstruct", "bias_correction"]
samples = 64
iterations = 10
threads = 1
"""
LOSS = """
import os, signal
calls = []
def loss(student, teacher, labels):
    calls.append(1)
    if len(calls) == 10 and os.environ.get("RANK") == os.environ.get("VICTIM", "none"):
        os.kill(os.getpid(), signal.SIGKILL)
    if len(calls) == 10 and os.environ.get("RANK") == os.environ.get("INTERRUPTED", "none"):
        signal.raise_signal(signal.SIGINT)
    return (student["logits"] - teacher["logits"]).square().mean()
"""
CLOSE = 1e-5
"""Float sums in another order, after 20 steps of some thousandths each."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net, data, and what one process makes of them, in `alone`."""
    path = tmp_path_factory.mktemp("torchrun")
    write_net(path, samples=320)
    (path / "loss.py").write_text(LOSS)
    (path / "recipe.toml").write_text(RECIPE.format(loss=f"{path}/loss.py:loss"))
    onnxqat.run(path / "recipe.toml", path / "alone")
    return path


def torchrun(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "onnxqat", "run", str(folder / "recipe.toml"), *arguments]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # children inherit "ignored"
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), **environment}
    try:
        return subprocess.run(
            command,
            env=settings,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def values(out: Path, name: str = "qat") -> dict[str, np.ndarray]:
    stored = onnx.load(out / f"{name}.onnx").graph.initializer
    return {entry.name: numpy_helper.to_array(entry).astype(np.float64) for entry in stored}


def losses(out: Path) -> list[float]:
    return [record["loss"] or 0.0 for record in json.loads((out / "history.json").read_text())]


def require_close(out: Path, other: Path) -> None:
    ours, theirs, start = values(out), values(other), values(other, "ptq")
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=CLOSE, err_msg=name)
    np.testing.assert_allclose(losses(out), losses(other), rtol=0, atol=CLOSE)
    moved = max(float(np.abs(theirs[name] - start[name]).max()) for name in theirs)
    assert moved > 100 * CLOSE, "the training is meant to have moved the weights"


def test_two_processes_train_what_one_trains(folder):
    done = torchrun(folder, "--out", str(folder / "two"))
    assert done.returncode == 0, done.stderr
    require_close(folder / "two", folder / "alone")
    start, control = values(folder / "two", "fp32"), values(folder / "two", "control")
    assert all(np.array_equal(start[name], control[name]) for name in start), "nothing to learn"
    assert done.stdout.count("agreement with FP32") == 1, "one process alone prints"


def test_an_initialized_model_is_trained_by_two_as_by_one(tmp_path):
    write_net(tmp_path, samples=320)
    recipe = RECIPE.format(loss="mse").replace("control = true\n", "")
    (tmp_path / "recipe.toml").write_text(recipe + INITIALIZATION)
    onnxqat.run(tmp_path / "recipe.toml", tmp_path / "alone")
    done = torchrun(tmp_path, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    one, two = (values(tmp_path / name, "init") for name in ("alone", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in one), "one process initializes"
    require_close(tmp_path / "two", tmp_path / "alone")


def test_a_process_that_dies_ends_the_run_which_fewer_can_go_on_with(folder):
    out = folder / "dies"
    died = torchrun(folder, "--out", str(out), VICTIM="1")
    assert died.returncode != 0
    assert "another process of this run has ended" in died.stderr
    assert (out / "qat.checkpoint").exists()
    onnxqat.run(folder / "recipe.toml", out, resume=True)
    require_close(out, folder / "alone")


def test_ctrl_c_in_one_process_stops_all_at_one_step_which_they_go_on_from(folder):
    out = folder / "interrupted"
    stopped = torchrun(folder, "--out", str(out), INTERRUPTED="1")
    assert stopped.returncode != 0
    assert "interrupted at step" in stopped.stderr, stopped.stderr
    assert 0 < len((out / "history.csv").read_text().splitlines()) < 20
    assert (out / "qat.checkpoint").exists()
    onnxqat.run(folder / "recipe.toml", out, resume=True)
    require_close(out, folder / "alone")

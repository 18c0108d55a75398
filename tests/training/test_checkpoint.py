"""A run that was cut off goes on, to the bit, wherever it was cut off."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxqat.core.errors import ConfigError
from onnxqat.training import FinetuneConfig, Finetuned, StepRecord, finetune
from onnxqat.training.interrupt import TOGETHER, Interrupt
from tests.support.finetune_worker import STEPS
from tests.support.students import Images, student_and_teacher, values_of

HERE = Path(__file__).parents[2]
QUICK = FinetuneConfig(steps=20, batch_size=32, validate_every=5, checkpoint_steps=3)


class CutError(Exception):
    pass


def train(path: Path, config: FinetuneConfig = QUICK, **choice) -> Finetuned:
    student, teacher = student_and_teacher(choice.pop("format_name", "int8"))
    return finetune(student, teacher, Images(), config=config, checkpoint=path, **choice)


def cut(path: Path, step: int, config: FinetuneConfig = QUICK) -> None:
    """Train until this step, and no further."""

    def stop(record: StepRecord) -> None:
        if record.step == step:
            raise CutError

    with pytest.raises(CutError):
        train(path, config, on_progress=stop)


def same(first: Finetuned, second: Finetuned) -> bool:
    ours, theirs = values_of(first.module), values_of(second.module)
    return all(np.array_equal(ours[name], theirs[name]) for name in ours)


def without_times(tuned: Finetuned) -> list[StepRecord]:
    return [replace(record, seconds=0.0) for record in tuned.history]


@pytest.mark.parametrize(
    "config",
    [
        QUICK,
        replace(QUICK, optimizer="sgd"),
        replace(QUICK, lr=0.5, scale_lr=0.5, clip_grad=None, validate_every=2),
        replace(QUICK, micro_batch=12),
        replace(QUICK, batch_size=96),
        replace(QUICK, freezing=0.015),
        replace(QUICK, loss="mse+features"),
        replace(QUICK, augment=("flip", "shift")),
        replace(QUICK, damping=0.1, average=0.9, scales_first=0.3, schedule="step", drop_epochs=1),
    ],
    ids=[
        "adamw",
        "sgd",
        "setbacks",
        "micro-batches",
        "in an epoch",
        "freezing",
        "features",
        "augment",
        "average",
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(tmp_path, config) -> None:
    whole = train(tmp_path / "whole", config)
    cut(tmp_path / "cut", 13, config)
    resumed = train(tmp_path / "cut", config, resume=True)
    assert same(whole, resumed)
    assert whole.best_step == resumed.best_step
    assert without_times(whole) == without_times(resumed)


@pytest.fixture
def heeds_ctrl_c():
    """A shell that runs the tests in the background makes them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_after_ctrl_c_a_run_goes_on_from_the_step_at_which_it_stopped(tmp_path) -> None:
    def press(record: StepRecord) -> None:
        if record.step == 13:
            os.kill(os.getpid(), signal.SIGINT)

    config = replace(QUICK, checkpoint_steps=None)
    whole = train(tmp_path / "whole", config)
    stopped = train(tmp_path / "cut", config, on_progress=press)
    assert stopped.stopped == "interrupted"
    assert stopped.history[-1].step == 13
    taken: list[int] = []
    resumed = train(
        tmp_path / "cut", config, resume=True, on_progress=lambda record: taken.append(record.step)
    )
    assert taken == list(range(14, 21))
    assert same(whole, resumed)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_a_second_time_stops_at_once() -> None:
    interrupt = Interrupt()
    interrupt.ask(signal.SIGINT, None)
    interrupt.ask(signal.SIGINT, None)  # handed on by torchrun
    interrupt._since -= 2 * TOGETHER
    with pytest.raises(KeyboardInterrupt):
        interrupt.ask(signal.SIGINT, None)


def test_random_numbers_of_a_loss_go_on_where_they_stopped(tmp_path) -> None:
    (tmp_path / "noisy.py").write_text(
        "import random, numpy, torch\n"
        "def loss(student, teacher, labels):\n"
        "    factor = 0.5 + float(torch.rand(())) + numpy.random.rand() + random.random()\n"
        "    return factor * (student['logits'] - teacher['logits']).square().mean()\n"
    )
    config = replace(QUICK, loss=f"{tmp_path / 'noisy.py'}:loss")

    def seed() -> None:
        import torch

        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    seed()
    whole = train(tmp_path / "whole", config)
    seed()
    cut(tmp_path / "cut", 13, config)
    assert same(whole, train(tmp_path / "cut", config, resume=True))


def test_only_the_steps_after_the_checkpoint_are_taken_again(tmp_path) -> None:
    cut(tmp_path / "run", 14)
    taken: list[int] = []
    train(tmp_path / "run", resume=True, on_progress=lambda record: taken.append(record.step))
    assert taken == list(range(13, 21))  # checkpoints were due at 3, 6, 9 and 12


def test_a_checkpoint_is_written_when_its_minutes_are_over(tmp_path) -> None:
    by_time = replace(QUICK, checkpoint_steps=None, checkpoint_minutes=1e-9)
    cut(tmp_path / "run", 2, by_time)
    never = replace(QUICK, checkpoint_steps=None, checkpoint_minutes=None)
    cut(tmp_path / "other", 10, never)
    assert (tmp_path / "run").exists()
    assert not (tmp_path / "other").exists()


def test_to_resume_before_the_first_checkpoint_is_to_start(tmp_path) -> None:
    assert same(train(tmp_path / "a"), train(tmp_path / "b", resume=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": replace(QUICK, lr=0.01)}, "lr was None and is 0.01"),
        ({"config": replace(QUICK, steps=30)}, "steps was 20 and is 30"),
        ({"format_name": "w4a8"}, "the Q/DQ model is another"),
        ({"validation": Images(seed=9)}, "the validation data is another"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path, change, said) -> None:
    cut(tmp_path / "run", 5)
    with pytest.raises(ConfigError, match=said):
        train(tmp_path / "run", resume=True, **change)


def test_a_checkpoint_of_other_training_data_is_refused(tmp_path) -> None:
    cut(tmp_path / "run", 5)
    student, teacher = student_and_teacher()
    with pytest.raises(ConfigError, match="the training data is another"):
        finetune(
            student,
            teacher,
            Images(seed=5),
            config=QUICK,
            checkpoint=tmp_path / "run",
            resume=True,
        )


@pytest.mark.parametrize("size", [0.5, 0.01])
def test_a_damaged_checkpoint_is_told_from_none(tmp_path, size) -> None:
    path = tmp_path / "run"
    cut(path, 5)
    content = path.read_bytes()
    path.write_bytes(content[: int(size * len(content))])
    with pytest.raises(ConfigError, match="damaged or no checkpoint"):
        train(path, resume=True)


WRITES = """
import resource, sys, torch
from pathlib import Path
from onnxqat.training.batches import Position
from onnxqat.training.checkpoint import Checkpoint, Progress, Saved

progress = Progress(1, Position(0, 0), 1.0, 0.0, 0, 0.0, (), "")
saved = Saved(progress, {str(i): torch.ones(2**24) for i in range(8)})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Checkpoint(Path(sys.argv[1]), {}, None, 1).write(saved)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_checkpoint_is_written_without_a_copy_in_memory(tmp_path) -> None:
    path = tmp_path / "half a gigabyte.checkpoint"
    command = [sys.executable, "-c", WRITES, str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)

    assert path.stat().st_size > 2**29
    assert int(said.stdout) * 1024 < 2**26


def test_what_a_killed_process_left_half_written_is_removed(tmp_path) -> None:
    cut(tmp_path / "run", 5)
    (tmp_path / ".run.abc").write_bytes(b"half")
    train(tmp_path / "run", resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def worker(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.finetune_worker", str(folder), *arguments]
    return subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)


def kill_at_random(folder: Path, rng: random.Random, *, most: int) -> bool:
    """Resume, and kill -9 a moment after one of the first steps; False if it was done before."""
    process = worker(folder, "--resume")
    assert process.stdout is not None
    for _ in range(rng.randint(1, most)):
        process.stdout.readline()
    time.sleep(rng.uniform(0, 0.02))
    process.kill()
    process.stdout.close()
    return process.wait() != 0


def require_killing_costs_nothing(tmp_path: Path, kills: int) -> None:
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    assert worker(tmp_path / "whole").wait() == 0
    rng = random.Random(kills)
    most = STEPS // kills
    done = [kill_at_random(tmp_path / "killed", rng, most=most) for _ in range(kills)]
    assert all(done), "the run is meant to be killed in its middle"
    assert worker(tmp_path / "killed", "--resume").wait() == 0
    whole, killed = (np.load(tmp_path / f / "tuned.npz") for f in ("whole", "killed"))
    assert all(np.array_equal(whole[name], killed[name]) for name in whole)


def test_killing_a_run_at_random_times_changes_nothing_in_the_end(tmp_path) -> None:
    require_killing_costs_nothing(tmp_path, kills=2)


@pytest.mark.slow
def test_killing_a_run_twenty_times_changes_nothing_in_the_end(tmp_path) -> None:
    require_killing_costs_nothing(tmp_path, kills=20)

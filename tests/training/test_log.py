import csv
import importlib.util

import pytest

from onnxqat.core.errors import ConfigError
from onnxqat.training import StepRecord, Validation
from onnxqat.training.log import CsvLog, TensorBoardLog


def record(step: int, loss: float) -> StepRecord:
    judged = Validation(samples=8, loss=loss, sqnr_db=20.0, agreement=0.5, top1=None)
    return StepRecord(step, 4, loss, 0.1, 1.0, judged if step % 2 == 0 else None)


def rows(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_every_record_is_a_line_at_once(tmp_path) -> None:
    log = CsvLog(tmp_path / "history.csv")
    for step in range(3):
        log.write(record(step, step / 10))
        assert len(rows(tmp_path / "history.csv")) == step + 1
    assert rows(tmp_path / "history.csv")[2] == {
        "step": "2", "loss": "0.2", "lr": "0.1", "seconds": "1.0", "held_out_loss": "0.2",
        "sqnr_db": "20.0", "agreement": "0.5", "top1": "", "is_best": "0",
    }  # fmt: skip


def test_steps_taken_again_replace_their_lines_and_what_was_cut_off(tmp_path) -> None:
    path = tmp_path / "history.csv"
    first = CsvLog(path)
    for step in range(4):
        first.write(record(step, 0.5))
    path.write_text(path.read_text() + "4,0.")
    CsvLog(path).write(record(2, 0.9))
    assert [(row["step"], row["loss"]) for row in rows(path)] == [
        ("0", "0.5"), ("1", "0.5"), ("2", "0.9"),
    ]  # fmt: skip


def test_a_run_from_the_start_replaces_an_older_file(tmp_path) -> None:
    (tmp_path / "history.csv").write_text("of something else\n")
    CsvLog(tmp_path / "history.csv").write(record(0, 0.5))
    assert [row["step"] for row in rows(tmp_path / "history.csv")] == ["0"]


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="it is installed")
def test_tensorboard_without_its_package_is_an_error_that_says_what_to_install(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"onnxqat\[tensorboard\]"):
        TensorBoardLog(tmp_path)


def test_tensorboard_gets_the_curves(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoardLog(tmp_path)
    for step in range(3):
        log.write(record(step, step / 10))
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [event.step for event in found.Scalars("loss")] == [0, 1, 2]

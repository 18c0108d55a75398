"""The trainings of a run, by one process or several: logged and kept in the run's folder.

Where torchrun started several, the first does the run and hands each model that is to be trained to
the others, which `follow` and do nothing else. Calibration stays with the first: it is short beside
training, and so sees the same samples in the same order however many processes there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxqat.bridge import to_torch
from onnxqat.core.codec import decode, encode
from onnxqat.core.finding import Finding
from onnxqat.core.summary import Summary
from onnxqat.data import Dataset
from onnxqat.graph import Graph, to_model
from onnxqat.run_folder import CHECKPOINT, RunFolder
from onnxqat.training import FinetuneConfig, Finetuned, OnProgress, StepRecord, finetune
from onnxqat.training.distributed import processes
from onnxqat.training.log import CsvLog, TensorBoardLog

END = b""
"""What the first process sends instead of a name when there is no more to train."""


@dataclass(frozen=True)
class Trainer:
    """What all trainings of a run have in common."""

    config: FinetuneConfig
    data: Dataset
    validation: Dataset | None
    out: Path
    """The run's folder, where the checkpoints lie."""
    resume: bool

    def train(
        self,
        name: str,
        models: tuple[Graph, Graph],
        folder: RunFolder,
        *,
        on_step: OnProgress,
        on_finding: Callable[[Finding], None],
    ) -> Finetuned:
        """Train a model, with all processes; the first calls this.

        Args:
            name: Of what comes out, and of its checkpoint.
            models: The student and its FP32 teacher.
            folder: Where the history is written as it goes.
            on_step: Is told each step.
            on_finding: Is told what of the student does not run or learn as it should.
        """
        self._hand_out(name, models)
        logs = _logs(name, folder, has_tensorboard=self.config.tensorboard)

        def tell(record: StepRecord) -> None:
            for one in (*logs, on_step):
                one(record)

        return self._finetune(name, models, tell, on_finding)

    def follow(self) -> Summary:
        """Train what the first process trains, until its run is done: its summary."""
        share = processes().from_first
        while (name := share(bytes)) != END:
            student, teacher = (onnx.load_from_string(share(bytes)) for _ in range(2))
            self._finetune(name.decode(), (student, teacher), None, lambda _: None)
        return decode(Summary, json.loads(share(bytes)))

    def _hand_out(self, name: str, models: tuple[Graph, Graph]) -> None:
        if processes().world == 1:
            return
        processes().from_first(name.encode)
        for model in models:
            processes().from_first(to_model(model).SerializeToString)

    def _finetune(
        self,
        name: str,
        models: tuple[Graph, Graph] | tuple[onnx.ModelProto, onnx.ModelProto],
        on_progress: OnProgress | None,
        on_finding: Callable[[Finding], None],
    ) -> Finetuned:
        student, teacher = (to_torch(model, fallback=self.config.fallback) for model in models)
        for finding in student.findings:
            on_finding(finding)
        return finetune(
            student,
            teacher,
            self.data,
            config=self.config,
            validation=self.validation,
            on_progress=on_progress,
            checkpoint=self.out / CHECKPOINT.format(name),
            resume=self.resume,
        )


def end(summary: Summary) -> Summary:
    """The summary, which the other processes wait for."""
    processes().from_first(lambda: END)
    processes().from_first(lambda: json.dumps(encode(summary)).encode())
    return summary


def _logs(name: str, folder: RunFolder, *, has_tensorboard: bool) -> list[OnProgress]:
    table = CsvLog(folder.history_path(name))
    if not has_tensorboard:
        return [table.write]
    return [table.write, TensorBoardLog(folder.path / "tensorboard" / name).write]

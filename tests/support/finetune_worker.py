"""A process that fine-tunes the tiny network and can be killed; see training/test_checkpoint.

python -m tests.support.finetune_worker FOLDER [--resume]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from onnxqat.training import FinetuneConfig, finetune
from tests.support.students import Images, student_and_teacher, values_of

STEPS = 150
CONFIG = FinetuneConfig(steps=STEPS, batch_size=32, checkpoint_steps=2, validate_every=10)


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    student, teacher = student_and_teacher("w4a8")
    tuned = finetune(
        student,
        teacher,
        Images(),
        config=CONFIG,
        on_progress=lambda record: print(record.step, flush=True),
        checkpoint=folder / "run.safetensors",
        resume="--resume" in sys.argv,
    )
    np.savez(folder / "tuned.npz", best_step=tuned.best_step, **values_of(tuned.module))


if __name__ == "__main__":
    main()

"""What a run is a run of, in digests, so that a checkpoint is not continued as something else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice

import numpy as np

from onnxqat.bridge import OnnxModule
from onnxqat.core.codec import encode
from onnxqat.data import Batch, Dataset
from onnxqat.training.config import FinetuneConfig

Identity = dict[str, str]
"""What it is -> its digest, or its value in words."""

FREE = frozenset(
    {
        "device", "threads", "workers", "micro_batch", "checkpoint_minutes", "checkpoint_steps",
        "compile",        "memory_format", "patience", "save_memory", "tensorboard",
    }
)  # fmt: skip
"""Settings that may change when a run is resumed: they say how and how long, not what is learned.
Rounding may differ with some."""
PROBE = 64
"""Samples of each order that stand for the whole data, together with its size."""


def identity(
    student: OnnxModule,
    teacher: OnnxModule,
    data: Dataset,
    validation: Dataset | None,
    config: FinetuneConfig,
) -> Identity:
    """Digests of the models as they come, and of samples of the data; the settings as they are.

    Data is known by its size and by some samples, the first and random ones: to read all of it
    would take as long as an epoch.
    """
    found = {
        "the Q/DQ model": _of_module(student),
        "the FP32 model": _of_module(teacher),
        "the training data": _of_data(data, config.seed),
    }
    if validation is not None:
        found["the validation data"] = _of_data(validation, config.seed)
    names = (entry.name for entry in fields(config) if entry.name not in FREE)
    return found | {name: str(encode(getattr(config, name))) for name in names}


def differences(then: Identity, now: Identity) -> list[str]:
    """What is not the same, in words."""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return [
        f"{name} is another"
        if name.startswith("the ")
        else f"{name} was {then.get(name)} and is {now.get(name)}"
        for name in names
    ]


def _of_module(module: OnnxModule) -> str:
    digest = hashlib.sha256()
    for node in module.graph.nodes:
        inputs, outputs = ([tensor.name for tensor in side] for side in (node.inputs, node.outputs))
        digest.update(repr((node.op, node.name, inputs, outputs)).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _of_data(data: Dataset, seed: int) -> str:
    digest = hashlib.sha256(repr((data.size, data.has_labels)).encode())
    for batch in _probes(data, seed):
        for name, array in sorted(batch.inputs.items()):
            digest.update(f"{name} {array.shape} {array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        if batch.labels is not None:
            digest.update(np.ascontiguousarray(batch.labels).tobytes())
    return digest.hexdigest()


def _probes(data: Dataset, seed: int) -> Iterator[Batch]:
    yield from islice(data.batches(PROBE), 1)
    yield from islice(data.batches(PROBE, seed=seed), 1)

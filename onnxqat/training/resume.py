"""A loop's state out of it and back into it, to the bit."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from onnxqat.training.checkpoint import Progress, Saved
from onnxqat.training.snapshot import Snapshot
from onnxqat.training.validation import Judged

if TYPE_CHECKING:
    from onnxqat.training.loop import Loop

CPU_RANDOM, CUDA_RANDOM = "random.cpu", "random.cuda"
START_LOSSES, START_SAMPLES = "start.losses", "start.samples"


def capture(loop: Loop) -> Saved:
    """The loop between two steps; copies nothing that need not be."""
    progress = Progress(
        step=loop.step,
        position=loop.position,
        shortened=loop.shortened,
        seconds=loop.seconds,
        best_step=loop.best.step,
        best_loss=loop.best.loss,
        history=tuple(loop.history),
        random=_host_random(),
    )
    tensors = {
        **_numbered("value", loop.targets.changing),
        **_numbered("coordinate", loop.coordinates.all),
        **_numbered("best", loop.best.values),
        **_numbered("average", loop.average.values if loop.average is not None else ()),
        **_numbered("freezing", loop.freezing.values if loop.freezing is not None else ()),
        **_start_tensors(loop.start),
        **_optimizer_tensors(loop.optimizer),
        CPU_RANDOM: torch.get_rng_state(),
    }
    if loop.device.type == "cuda":
        tensors[CUDA_RANDOM] = torch.cuda.get_rng_state(loop.device)
    return Saved(progress, tensors)


@torch.no_grad()
def put_back(loop: Loop, saved: Saved) -> None:
    """The loop as it was captured."""
    progress, tensors = saved.progress, saved.tensors
    loop.step, loop.position = progress.step, progress.position
    loop.shortened, loop.seconds_before = progress.shortened, progress.seconds
    loop.history[:] = progress.history
    _copy("value", tensors, loop.targets.changing)
    _copy("coordinate", tensors, loop.coordinates.all)
    best = tuple(torch.empty_like(value) for value in loop.best.values)
    _copy("best", tensors, best)
    loop.best = Snapshot(progress.best_step, progress.best_loss, best)
    loop.start = _start(progress, tensors)
    if loop.average is not None:
        _copy("average", tensors, loop.average.values)
    if loop.freezing is not None:
        _copy("freezing", tensors, loop.freezing.values)
    _fill_optimizer(loop.optimizer, tensors)
    _set_host_random(progress.random)
    torch.set_rng_state(tensors[CPU_RANDOM])
    if loop.device.type == "cuda" and CUDA_RANDOM in tensors:
        torch.cuda.set_rng_state(tensors[CUDA_RANDOM], loop.device)


def _numbered(name: str, values: Iterable[Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{index}": value.detach() for index, value in enumerate(values)}


def _copy(name: str, tensors: Mapping[str, Tensor], targets: Iterable[Tensor]) -> None:
    for index, target in enumerate(targets):
        target.copy_(tensors[f"{name}.{index}"])


def _start_tensors(start: Judged | None) -> dict[str, Tensor]:
    return {} if start is None else {START_LOSSES: start.losses, START_SAMPLES: start.samples}


def _start(progress: Progress, tensors: Mapping[str, Tensor]) -> Judged | None:
    found = progress.history[0].validation if progress.history else None
    if found is None:
        return None
    return Judged(found, tensors[START_LOSSES], tensors[START_SAMPLES])


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{key}": value
        for index, entry in state.items()
        for key, value in entry.items()
        if isinstance(value, Tensor)
    }


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _host_random() -> str:
    """Python's and numpy's generators, which a loss of the user's may draw from."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return json.dumps([random.getstate(), [kind, np.asarray(keys).tolist(), *rest]])


def _set_host_random(text: str) -> None:
    (version, words, gauss), (kind, keys, *rest) = json.loads(text)
    random.setstate((version, tuple(words), gauss))
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))

"""Where modules compute: on which device, with how many threads, and whether they fit together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from onnxqat.bridge import OnnxModule, keep_freed_memory
from onnxqat.core.errors import ConfigError
from onnxqat.training.distributed import local_cuda


def choose_device(name: str) -> torch.device:
    """The device `cpu` or `cuda`; `auto`: CUDA where there is one, one GPU a process.

    Raises:
        ConfigError: CUDA is asked for and not there.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ConfigError("there is no CUDA device", fix='use device = "auto" or "cpu"')
    return local_cuda() if has_cuda and name != "cpu" else torch.device("cpu")


def choose_memory_format(name: str, device: torch.device) -> torch.memory_format:
    """How images lie in memory; `auto`: channels last where that was measured to be faster."""
    is_last = name == "channels_last" or (name == "auto" and device.type == "cpu")
    return torch.channels_last if is_last else torch.contiguous_format


@contextlib.contextmanager
def on_device(device: torch.device, *modules: OnnxModule) -> Iterator[None]:
    """The modules on a device; afterwards on the CPU again."""
    if device.type == "cpu":
        keep_freed_memory()
    for module in modules:
        module.to(device)
    try:
        yield
    finally:
        for module in modules:
            module.to("cpu")


@contextlib.contextmanager
def on_threads(threads: int | None) -> Iterator[None]:
    """So many threads of torch's; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_same_signature(student: OnnxModule, teacher: OnnxModule) -> None:
    """Inputs and outputs of the two have the same names.

    Raises:
        ConfigError: They do not.
    """
    for what in ("input_names", "output_names"):
        ours, theirs = tuple(getattr(student, what)), tuple(getattr(teacher, what))
        if ours != theirs:
            raise ConfigError(
                f"student and teacher have different {what.replace('_', ' ')}: {ours}, {theirs}",
                fix="give the FP32 model that the Q/DQ model was made of as the teacher",
            )

"""Several processes that train one model: started by torchrun, each with a part of every step.

    torchrun --nproc-per-node 4 -m onnxqat run recipe.toml --out DIR

Each process computes its share of the step's samples. The gradients are summed over all of them, so
every process takes the very step that one alone would take, and holds the very same parameters,
scales included. Whatever is decided by measuring (validation, the checkpoint) is decided on numbers
summed over all; only the first process writes files.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from onnxqat.core.errors import TrainingError

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: while the first calibrates or compiles, they wait."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the run; alone, every method is free."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; all in one message for each type.

        Raises:
            TrainingError: Another process has ended.
        """
        if self.world == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            _together(lambda flat=flat: distributed.all_reduce(flat))  # type: ignore[misc]
            parts = torch.split(flat, [tensor.numel() for tensor in same])
            for tensor, part in zip(same, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def from_first(self, make: Callable[[], bytes]) -> bytes:
        """What `make` gives in the first process, in all of them.

        Raises:
            TrainingError: Another process has ended.
        """
        content = make() if self.is_first else b""
        if self.world == 1:
            return content
        size = torch.tensor([len(content)])
        _together(lambda: distributed.broadcast(size, 0))
        block = torch.zeros(int(size), dtype=torch.uint8)
        if self.is_first and content:
            block = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if int(size):
            _together(lambda: distributed.broadcast(block, 0))
        return content if self.is_first else block.numpy().tobytes()

    def texts(self, text: str) -> list[str]:
        """The text of each process, in order of their ranks; what is too long is cut."""
        if self.world == 1:
            return [text]
        content = text.encode()[:_LONGEST].ljust(_LONGEST, b"\0")
        mine = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        all_of_them = [torch.empty_like(mine) for _ in range(self.world)]
        _together(lambda: distributed.all_gather(all_of_them, mine))
        return [
            block.numpy().tobytes().rstrip(b"\0").decode(errors="replace") for block in all_of_them
        ]


_LONGEST = 512
"""Bytes of a text between processes."""


def processes() -> Processes:
    """This process among the others, if it has been joined to any."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Processes()
    return Processes(distributed.get_rank(), distributed.get_world_size())


def local_cuda() -> torch.device:
    """The GPU of this process: each of a machine's has its own; alone, torch's current one."""
    rank = os.environ.get("LOCAL_RANK")
    return torch.device("cuda") if rank is None else torch.device("cuda", int(rank))


@contextmanager
def joined() -> Iterator[Processes]:
    """This process joined to the others that torchrun started; alone where it did not.

    Tensors on the CPU go by gloo, those on a GPU by nccl. To be called in the main thread.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield processes()
        return
    backend = "gloo"
    if torch.cuda.is_available() and distributed.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local_cuda())
    distributed.init_process_group(backend, timeout=PATIENCE)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield processes()
    finally:
        signal.signal(signal.SIGTERM, before)
        distributed.destroy_process_group()


def _end(_number: int, _frame: object) -> None:
    """Torchrun's way to end the other processes when one has ended."""
    raise TrainingError(
        "another process of this run has ended, or the run was stopped from outside", fix=_AGAIN
    )


_AGAIN = (
    "see the message of the first that ended; then start all of them again with --resume, as many "
    "as there are machines for"
)


def _together(call: Callable[[], T]) -> T:
    try:
        return call()
    except RuntimeError as error:  # of gloo and nccl alike; torch has no type of its own for it
        raise TrainingError(
            "another process of this run has ended, or cannot be reached",
            at=str(error).strip().splitlines()[0],
            fix=_AGAIN,
        ) from error

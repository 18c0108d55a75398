"""A run on disk, so that it can go on after it was killed: one safetensors file.

Its header holds the rest as JSON: how far the run is, its history, where its random numbers stand,
and what it is a run of. Being one file, it is replaced in one rename, so whoever reads it finds the
old state or the new one, whole. Nothing in it is code; nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from onnxqat.core.codec import decode, encode
from onnxqat.core.errors import ConfigError
from onnxqat.core.files import replacing
from onnxqat.training.batches import Position
from onnxqat.training.identity import Identity, differences
from onnxqat.training.record import StepRecord

FORMAT = "2"
"""Of the file. Raised when a version can no longer read what another wrote."""


@dataclass(frozen=True)
class Progress:
    """How far a run is, apart from its tensors."""

    step: int
    position: Position
    shortened: float
    """Factor on all rates, after setbacks."""
    seconds: float
    """That the run has taken so far."""
    best_step: int
    best_loss: float
    history: tuple[StepRecord, ...]
    random: str
    """States of Python's and numpy's generators, as JSON."""


@dataclass(frozen=True, eq=False)
class Saved:
    """A run between two steps."""

    progress: Progress
    tensors: Mapping[str, Tensor]


@dataclass(eq=False)
class Checkpoint:
    """The file of one run, and when it is written."""

    path: Path
    identity: Identity
    minutes: float | None
    steps: int | None
    _written: float = field(default_factory=time.monotonic)

    def is_due(self, step: int) -> bool:
        """Whether to write after this step."""
        if self.is_planned(step):
            return True
        past = time.monotonic() - self._written
        return self.minutes is not None and past >= 60 * self.minutes

    def is_planned(self, step: int) -> bool:
        """Whether the step's number alone says so."""
        return self.steps is not None and step % self.steps == 0

    def write(self, saved: Saved) -> None:
        """Replace the file; on the disk when this returns, also after a loss of power."""
        tensors = {name: x.detach().cpu().contiguous() for name, x in saved.tensors.items()}
        with replacing(self.path) as temporary:
            # From where the tensors lie: as bytes they would take the run's own memory twice more.
            safetensors.torch.save_file(tensors, temporary, _header(saved, self.identity))
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        self._written = time.monotonic()

    def read(self) -> bytes:
        """The file's content; nothing where there is no file yet. Half-written ones are removed."""
        for left in self.path.parent.glob(f".{self.path.name}.*"):
            left.unlink(missing_ok=True)
        return self.path.read_bytes() if self.path.exists() else b""

    def parse(self, content: bytes) -> Saved:
        """What a file's content holds.

        Raises:
            ConfigError: It is damaged, or of another run: of which part, is said.
        """
        try:
            tensors = safetensors.torch.load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            meta = header["__metadata__"]
            identity = json.loads(meta["identity"])
            is_known = meta["format"] == FORMAT
            progress = decode(Progress, json.loads(meta["progress"])) if is_known else None
        except (safetensors.SafetensorError, ValueError, KeyError, ConfigError) as error:
            raise self._refused(f"is damaged or no checkpoint: {error}") from error
        if progress is None:
            raise self._refused("was written by another version of onnxqat")
        other = differences(identity, self.identity)
        if other:
            raise self._refused(f"is of another run: {'; '.join(other)}")
        return Saved(progress, tensors)

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(
            f"the checkpoint {self.path} {why}",
            fix="resume with what the run was started with, or remove the file to start anew",
        )


def _header(saved: Saved, identity: Identity) -> dict[str, str]:
    return {
        "format": FORMAT,
        "identity": json.dumps(identity),
        "progress": json.dumps(encode(saved.progress)),
    }

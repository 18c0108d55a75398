"""The student through torch.compile: what it computes, in kernels made for it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any, cast

import torch
from torch import Tensor

from onnxqat.bridge import OnnxModule
from onnxqat.core.errors import ConfigError, TrainingError

_LEAVE = "leave compile out: without it nothing is missing but the kernels"

RECOMPILATIONS = 256
"""All modules of a process share the code of `OnnxModule.forward`, by which torch counts."""


def require_compiler(device: torch.device) -> None:
    """What torch.compile wants on a device is there.

    Raises:
        ConfigError: It is not.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ConfigError("compile = true needs triton on a GPU", fix=_LEAVE)
        return
    name = os.environ.get("CXX") or "g++"  # as torch's inductor chooses
    if shutil.which(name) is None:
        raise ConfigError(
            f"compile = true needs a C++ compiler on a CPU, and '{name}' is none",
            fix=f"install one, or set CXX to it, or {_LEAVE}",
        )


class Compiled:
    """A module in one compiled piece, to be called as the module is; compiled by its first call."""

    def __init__(self, module: OnnxModule) -> None:
        self.output_names = module.output_names
        # In one piece or not at all: parts that fell back to Python would do so in silence
        self._run: Any = torch.compile(module, fullgraph=True)

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the module returns.

        Raises:
            TrainingError: It cannot be compiled.
        """
        dynamo = torch._dynamo
        try:
            with dynamo.config.patch(recompile_limit=RECOMPILATIONS):
                return cast("Tensor | tuple[Tensor, ...]", self._run(*inputs))
        except (dynamo.exc.TorchDynamoException, dynamo.exc.FailOnRecompileLimitHit) as error:
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise TrainingError(
                f"torch.compile cannot compile the model: {first[0]}", fix=_LEAVE
            ) from error

"""One of several processes that train a module with DistributedDataParallel; see test_ways_to_run.

python -m tests.support.ddp_worker RANK WORLD STORE MODEL DATA OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from onnxqat.bridge import OnnxModule, to_torch

NETS = ("quantized", "frozen")
"""Stems of the model, the samples and what comes out, in the folder."""
STEPS, RATE = 3, 0.05


def trainee(model: str | Path) -> OnnxModule:
    """The module, its scales learning."""
    module = to_torch(model, fallback="onnxruntime")
    for quantizer in module.quantizers.values():
        quantizer.learn_scale = True
    return module


def train(module: torch.nn.Module, x: torch.Tensor) -> None:
    """A few steps of plain gradient descent."""
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


def main() -> None:
    """Train each net on this rank's part of its samples, and keep what came out."""
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    for net in NETS:
        module = trainee(folder / f"{net}.onnx")
        if rank:  # DDP must hand out rank 0's parameters
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.mul_(2)
        part = np.split(np.load(folder / f"{net}.npy"), world)[rank]
        train(DistributedDataParallel(module), torch.from_numpy(part))
        torch.save(module.state_dict(), folder / f"{net}.{rank}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()

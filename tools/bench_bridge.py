"""Time the torch module of ResNet-20 against the same network written by hand, interleaved.

Prints forward and training-step times of: torch by hand, the FP32 module, and the quantized module
with frozen and with learned scales, each as a ratio to the first two. CPU time of this process, so
that other work on the machine counts less; the smallest of all rounds.

    python tools/bench_bridge.py MODEL [--batch 128] [--rounds 12] [--threads 1]

MODEL is cifar10_resnet20.onnx, or another export of the same network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import parser as onnx_parser
from torch import Tensor, nn
from torch.nn import functional

from onnxqat import calibrate, insert, load, place, prepare, to_torch
from onnxqat.bridge import keep_freed_memory
from onnxqat.data import Batch


class Block(nn.Module):
    """Two convolutions and a shortcut that pads its channels with zeros."""

    def __init__(self, channels: int, wider: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, wider, 3, stride, 1)
        self.second = nn.Conv2d(wider, wider, 3, 1, 1)
        self.stride, self.extra = stride, (wider - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H / stride, W / stride]."""
        y = self.second(functional.relu(self.first(x)))
        if self.stride != 1:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        return functional.relu(y + x)


class ResNet20(nn.Module):
    """The network as one writes it in torch, BatchNorm folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        widths = [16, 16, 16, 32, 32, 32, 64, 64, 64]
        pairs = zip([16, *widths], widths, strict=False)
        self.blocks = nn.Sequential(*(Block(a, b, 1 if a == b else 2) for a, b in pairs))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, 32, 32] to logits [N, 10]."""
        x = self.blocks(functional.relu(self.stem(x)))
        return self.head(functional.avg_pool2d(x, x.shape[3]).flatten(1))  # type: ignore[no-any-return]


class Noise:
    """A calibration set: timing does not depend on the values."""

    has_labels, size = False, 32

    def batches(self, batch_size: int, **_: Any) -> Iterator[Batch]:
        """Standard normal images."""
        rng = np.random.default_rng(0)
        for start in range(0, self.size, batch_size):
            count = min(batch_size, self.size - start)
            images = rng.normal(size=(count, 3, 32, 32)).astype(np.float32)
            yield Batch({"input": images}, None, count)


def modules(path: Path) -> dict[str, nn.Module]:
    """The contestants by name."""
    graph = prepare(load(path))
    plan = place(graph)
    quantized = insert(graph, plan, calibrate(graph, plan, Noise()))
    learned = to_torch(quantized)
    for quantizer in learned.quantizers.values():
        quantizer.learn_scale = True
    return {
        "by hand": ResNet20(),
        "fp32 module": to_torch(graph),
        "qat, frozen scales": to_torch(quantized),
        "qat, learned scales": learned,
    }


def step(module: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """CPU seconds of the forward pass, and of the whole step."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    start = time.process_time()
    logits = module(x)
    middle = time.process_time()
    gradients = torch.autograd.grad(functional.cross_entropy(logits, y), trained)
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.sub_(gradient, alpha=1e-6)
    return middle - start, time.process_time() - start


def node_overhead(nodes: int = 400) -> float:
    """Microseconds that the module adds to each operator of a chain, over calling it in a loop."""
    chain = "\n".join(f"x{i + 1} = Neg (x{i})" for i in range(nodes))
    model: onnx.ModelProto = onnx_parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> '
        f"chain (float[n] x0) => (float[n] x{nodes}) {{{chain}}}"
    )
    module, x = to_torch(model), torch.zeros(4)
    best = [float("inf")] * 2
    for _ in range(20):
        start = time.process_time()
        module(x)
        middle = time.process_time()
        y = x
        for _ in range(nodes):
            y = -y
        best = [min(best[0], middle - start), min(best[1], time.process_time() - middle)]
    return (best[0] - best[1]) / nodes * 1e6


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--batch", type=int, default=128)
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # for all contestants; training does so, too
    x = torch.randn(options.batch, 3, 32, 32)
    y = torch.randint(0, 10, (options.batch,))
    contestants = modules(options.model)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(options.rounds + 1):
        for name, module in contestants.items():
            times[name].append(step(module, x, y))
    best = {
        name: tuple(min(column) for column in zip(*rows[1:], strict=True))
        for name, rows in times.items()
    }
    print(f"{'':20} {'forward':>16} {'step':>16} {'/ by hand':>10} {'/ fp32':>8}")
    for name, (forward, whole) in best.items():
        ratios = [whole / best[other][1] for other in ("by hand", "fp32 module")]
        print(
            f"{name:20} {forward * 1e3:13.1f} ms {whole * 1e3:13.1f} ms "
            f"{ratios[0]:10.3f} {ratios[1]:8.3f}"
        )
    print(f"host overhead per node: {node_overhead():.2f} us")


if __name__ == "__main__":
    main()

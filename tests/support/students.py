"""A tiny network in FP32 and after post-training quantization, and images to fine-tune it on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from onnxqat.bridge import OnnxModule, to_torch
from onnxqat.calibration import CalibrationConfig, calibrate
from onnxqat.data import Batch
from onnxqat.graph import Graph, as_graph, insert, prepare
from onnxqat.placement import PlacementConfig, place
from tests.support.nets import images, residual_net


@dataclass
class Images:
    """Images [samples, 3, 8, 8] with labels, in memory."""

    samples: int = 256
    seed: int = 1
    labelled: bool = True
    fixed: int | None = None
    """A batch size that overrides the wanted one."""

    def __post_init__(self) -> None:
        self.images = images(self.samples, seed=self.seed)
        self.labels = np.arange(self.samples) % 4

    @property
    def size(self) -> int:
        return self.samples

    @property
    def has_labels(self) -> bool:
        return self.labelled

    def batches(
        self, batch_size: int, *, samples: int | None = None, seed: int | None = None
    ) -> Iterator[Batch]:
        order = np.arange(self.samples)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(self.samples)
        order, step = order[:samples], self.fixed or batch_size
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            labels = self.labels[chosen] if self.labelled else None
            yield Batch({"image": self.images[chosen]}, labels, len(chosen))


@cache
def _graphs(format_name: str) -> tuple[Graph, Graph]:
    asked = PlacementConfig(format=format_name)
    fp32 = prepare(as_graph(residual_net()), min_opset=asked.min_opset)
    plan = place(fp32, config=asked)
    config = CalibrationConfig(method="max", samples=64, threads=1)
    return insert(fp32, plan, calibrate(fp32, plan, Images(), config=config)), fp32


def student_and_teacher(format_name: str = "int8") -> tuple[OnnxModule, OnnxModule]:
    """Fresh modules of the quantized and of the FP32 network."""
    ptq, fp32 = _graphs(format_name)
    return to_torch(ptq), to_torch(fp32)


@torch.no_grad()
def sqnr_db(student: OnnxModule, teacher: OnnxModule, data: Images) -> float:
    """Signal-to-quantization-noise ratio of the logits, in dB."""
    x = torch.from_numpy(data.images)
    wanted: Tensor = teacher(x)
    noise = (student(x) - wanted).square().sum()
    return 10 * math.log10(float(wanted.square().sum() / noise))


def values_of(module: OnnxModule) -> dict[str, np.ndarray]:
    """Copies of all parameters, scales included, by ONNX name."""
    return {
        module.onnx_name(name): parameter.detach().numpy().copy()
        for name, parameter in module.named_parameters()
    }

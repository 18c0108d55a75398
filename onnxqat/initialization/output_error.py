"""How far a module's outputs are from the teacher's, and whether a change has helped.

What brings one layer nearer to the float network often takes the outputs away from it; so stages
try a change of one layer at a time, and keep it by what the outputs say.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from onnxqat.bridge import OnnxModule
from onnxqat.training.batches import TensorBatch
from onnxqat.training.losses import Outputs, observe_outputs
from onnxqat.training.run import run_module

_TINY = 1e-30
"""Keeps an error of 0 away from the logarithm."""


class OutputErrors:
    """The squared error of the outputs by their variance: of each sample, where outputs have them
    one behind the other, else of each batch.
    """

    def __init__(self, wanted: Sequence[Outputs]) -> None:
        """By the teacher's outputs for each batch."""
        self._wanted = wanted
        self._facts = observe_outputs(list(wanted))

    def __call__(self, found: Sequence[Outputs]) -> Tensor:
        """Shape [samples], for the student's outputs for the same batches."""
        pairs = list(zip(found, self._wanted, strict=True))
        total = torch.zeros(())
        for name, fact in self._facts.items():
            squares = [_squares(ours[name], theirs[name]) for ours, theirs in pairs]
            total = total + (torch.cat(squares) / (fact.variance or 1.0)).cpu()
        return total


def is_better(trial: Tensor, before: Tensor) -> bool:
    """Whether the error fell, over all samples and in the typical one: a few samples on which a
    network reacts by leaps make most of the one, and nothing of the other.
    """
    typical = (trial.clamp_min(_TINY).log() - before.clamp_min(_TINY).log()).mean()
    return bool(typical < 0) and bool(trial.sum() < before.sum())


@torch.no_grad()
def run_all(module: OnnxModule, batches: Sequence[TensorBatch]) -> list[Outputs]:
    """The outputs for each batch."""
    return [run_module(module, batch.inputs) for batch in batches]


def _squares(ours: Tensor, theirs: Tensor) -> Tensor:
    """The mean squared error along the first axis; all there is where the shapes differ."""
    difference = ours - theirs if ours.shape == theirs.shape else theirs
    return difference.double().square().reshape(len(theirs) if theirs.ndim else 1, -1).mean(1)

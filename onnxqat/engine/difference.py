"""Running sums of how far one tensor is from another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxqat.core.comparison import LayerError

Array = NDArray[Any]


@dataclass
class Difference:
    """Error of one tensor, summed batch by batch in float64."""

    signal: float = 0.0
    """Σ reference²."""
    noise: float = 0.0
    """Σ (reference − candidate)²: infinite once either alone is not a finite number."""
    max_abs: float = 0.0

    def add(self, reference: Array, candidate: Array) -> None:
        """Count one batch; both arrays have the same shape."""
        wide = reference.astype(np.float64)
        differs = reference != candidate  # equal infinities are no error
        error = np.subtract(wide, candidate, out=np.zeros_like(wide), where=differs)
        error[~np.isfinite(error)] = np.inf
        self.signal += _energy(wide[np.isfinite(wide)])
        self.noise += _energy(error)
        self.max_abs = max(self.max_abs, float(np.abs(error).max(initial=0.0)))

    def result(self, tensor: str) -> LayerError:
        """The error so far, under the tensor's name."""
        return LayerError(tensor, _decibels(self.signal, self.noise), self.max_abs)


@dataclass
class Agreement:
    """Classes that two models choose, counted."""

    samples: int = 0
    same: int = 0
    labelled: int = 0
    reference_right: int = 0
    candidate_right: int = 0
    lost: int = 0
    """Right in the reference alone."""
    gained: int = 0
    """Right in the candidate alone."""

    def add(self, reference: Array, candidate: Array, labels: Array | None) -> None:
        """Count one batch of class scores, shape [N, C] or [N, C, 1, 1]; labels [N] or None."""
        ours, theirs = _top1(reference), _top1(candidate)
        self.samples += len(ours)
        self.same += int((ours == theirs).sum())
        if labels is not None:
            self.labelled += len(labels)
            before, after = ours == labels, theirs == labels
            self.reference_right += int(before.sum())
            self.candidate_right += int(after.sum())
            self.lost += int((before & ~after).sum())
            self.gained += int((after & ~before).sum())


def is_class_scores(output: Array, samples: int) -> bool:
    """Whether an output ranks classes: one row a sample, of two scores or more.

    That is [N, C] or [N, C, 1, 1] with C ≥ 2. A regression with two outputs or more looks the same,
    and is then told an agreement that means nothing.
    """
    return (
        output.ndim in (2, 4)
        and output.shape[0] == samples
        and output.shape[1] >= 2
        and output.shape[2:] in ((), (1, 1))
    )


def _top1(scores: Array) -> NDArray[np.int64]:
    classes: NDArray[np.int64] = scores.reshape(len(scores), -1).argmax(axis=1)
    return classes


def _energy(values: NDArray[np.float64]) -> float:
    return float(np.square(values).sum())


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return float("inf")
    ratio = signal / noise
    return 10.0 * float(np.log10(ratio)) if ratio > 0.0 else float("-inf")

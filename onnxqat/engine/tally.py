"""Counts how far two sets of outputs are apart, batch after batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxqat.core.comparison import Comparison, LayerError
from onnxqat.core.errors import DataError, ModelError
from onnxqat.engine.difference import Agreement, Difference, is_class_scores
from onnxqat.engine.runtime import Array, is_float

Outputs = Mapping[str, Array]
"""Arrays by tensor name, in the model's order."""


class Tally:
    """The errors counted so far; memory does not grow with the number of batches."""

    def __init__(self, inner: frozenset[str]) -> None:
        """Count errors of outputs, and of `inner` tensors apart from them."""
        self.samples = 0
        self._inner = inner
        self._differences: dict[str, Difference] = {}
        self._agreement = Agreement()
        self._class_output: str | None = None

    def add(
        self, reference: Outputs, candidate: Outputs, *, samples: int, labels: Array | None
    ) -> None:
        """Count one batch of this many samples.

        Raises:
            ModelError: The candidate lacks an output of the reference, or has it in another shape.
            DataError: A label is no class of the model.
        """
        for name, wanted, got in self._pairs(reference, candidate):
            self._differences.setdefault(name, Difference()).add(wanted, got)
        if self.samples == 0:
            self._class_output = self._find_classes(reference, samples)
        self.samples += samples
        if self._class_output is not None:
            ours, theirs = reference[self._class_output], candidate[self._class_output]
            self._agreement.add(ours, theirs, _checked(labels, ours.shape[1]))

    def result(self) -> Comparison:
        """What the batches so far come to.

        Raises:
            DataError: There was none.
        """
        if self.samples == 0:
            raise DataError(
                "there is no sample to compare the models on", fix="give data that holds samples"
            )
        classes = self._agreement
        return Comparison(
            samples=self.samples,
            outputs=self._errors(inner=False),
            agreement=_share(classes.same, classes.samples),
            metric="top1" if classes.labelled else None,
            reference_metric=_share(classes.reference_right, classes.labelled),
            candidate_metric=_share(classes.candidate_right, classes.labelled),
            layers=self._errors(inner=True),
            lost=classes.lost if classes.labelled else None,
            gained=classes.gained if classes.labelled else None,
        )

    def _pairs(self, reference: Outputs, candidate: Outputs) -> Iterator[tuple[str, Array, Array]]:
        """Float tensors of both models."""
        for name, wanted in reference.items():
            got = candidate.get(name)
            if not is_float(wanted):
                continue
            if got is not None and got.shape == wanted.shape:
                yield name, wanted, got
            elif name not in self._inner:  # an inner name can mean another tensor there
                raise _misfit(name, wanted, got)

    def _find_classes(self, outputs: Outputs, samples: int) -> str | None:
        """The first output of class scores."""
        found = (
            name
            for name, output in outputs.items()
            if name not in self._inner and is_float(output) and is_class_scores(output, samples)
        )
        return next(found, None)

    def _errors(self, *, inner: bool) -> tuple[LayerError, ...]:
        return tuple(
            difference.result(name)
            for name, difference in self._differences.items()
            if (name in self._inner) is inner
        )


def _misfit(name: str, wanted: Array, got: Array | None) -> ModelError:
    if got is None:
        problem = "the candidate has no output of this name"
    else:
        problem = f"the candidate's output has shape {got.shape}, the reference's {wanted.shape}"
    return ModelError(problem, tensor=name, fix="compare two forms of the same model")


def _checked(labels: Array | None, classes: int) -> Array | None:
    """The labels, where they are class indices at all: whole numbers, one a sample."""
    if labels is None or labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return None
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"labels reach from {labels.min()} to {labels.max()}, the model has {classes} classes",
            fix="give the labels that belong to this model",
        )
    return labels


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None

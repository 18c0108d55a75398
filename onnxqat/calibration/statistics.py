"""Statistics of a model's tensors: collected once, saved, used for any plan over the same model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.core.errors import DataError
from onnxqat.core.files import replacing
from onnxqat.graph import Graph, to_model

_VERSION = 1


@dataclass(frozen=True, eq=False)
class Statistics:
    """What was seen of each tensor, and in which model."""

    model: str
    """Fingerprint of the graph that was run."""
    samples: int
    tensors: Mapping[str, TensorStatistics] = field(default_factory=dict)

    def check_model(self, graph: Graph) -> None:
        """Raise a DataError unless these are statistics of this very graph."""
        if self.model != fingerprint(graph):
            raise DataError(
                "the saved statistics are of another model",
                fix="collect them again with this model, prepared as it is now",
            )

    def save(self, path: Path) -> None:
        """Write `path` (JSON: extremes and counts) and, beside it, .npz (histograms)."""
        names = sorted(self.tensors)
        document = {
            "version": _VERSION,
            "model": self.model,
            "samples": self.samples,
            "tensors": {name: _facts(self.tensors[name]) for name in names},
        }
        counts = np.stack([self.tensors[name].counts for name in names])
        with replacing(path.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, counts=counts)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Statistics:
        """The statistics that `save` wrote.

        Raises:
            DataError: The files are missing or damaged.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
                counts = arrays["counts"]
            tensors = {
                name: TensorStatistics(**facts, counts=row)
                for (name, facts), row in zip(document["tensors"].items(), counts, strict=True)
            }
            return Statistics(document["model"], document["samples"], tensors)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the statistics cannot be read: {error}",
                at=f"file '{path}'",
                fix="collect them again",
            ) from error


def _facts(statistics: TensorStatistics) -> dict[str, float]:
    return {name: getattr(statistics, name) for name in ("minimum", "maximum", "values", "top")}


def fingerprint(graph: Graph) -> str:
    """A hash of all that the tensors' values depend on: nodes, attributes and weights."""
    model = to_model(graph)
    digest = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        digest.update(tensor.SerializeToString(deterministic=True))
    for node in model.graph.node:
        digest.update(node.SerializeToString(deterministic=True))
    return digest.hexdigest()

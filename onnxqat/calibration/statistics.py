"""Statistics of a model's tensors: collected once, saved, used for any plan over the same model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxqat.calibration.groups import constants_of
from onnxqat.calibration.histogram import TensorStatistics
from onnxqat.core.errors import DataError
from onnxqat.core.files import replacing
from onnxqat.graph import Graph
from onnxqat.graph.exporter import export_model

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
    digest = hashlib.sha256()
    # Weights are hashed where they lie: a proto would be a second copy of them all.
    for node in export_model(graph, lambda _: None).graph.node:
        digest.update(node.SerializeToString(deterministic=True))
    for name, values in sorted(constants_of(graph).items()):
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(_as_bytes(values))
    return digest.hexdigest()


def _as_bytes(values: NDArray[Any]) -> bytes | memoryview:
    if values.dtype.hasobject:  # strings
        return repr(values.tolist()).encode()
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data

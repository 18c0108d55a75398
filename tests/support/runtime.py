"""ONNX Runtime as the oracle: any form of a model, run as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnxqat.graph import to_model

Arrays = Mapping[str, NDArray[Any]]

OLDEST_ORACLE = (1, 31)
is_good_oracle = tuple(map(int, ort.__version__.split(".")[:2])) >= OLDEST_ORACLE
needs_good_oracle = pytest.mark.skipif(
    not is_good_oracle,
    reason="an ONNX Runtime this old, the last for Python 3.10, lacks operators, and computes some "
    "otherwise than ONNX says (average pools with ceil_mode, Attention)",
)


def run(model: Path | onnx.ModelProto | gs.Graph, feeds: Arrays) -> list[NDArray[Any]]:
    """The outputs in graph order, with all graph optimizations off."""
    return session(model).run(None, dict(feeds))


def session(model: Path | onnx.ModelProto | gs.Graph) -> ort.InferenceSession:
    """A session on one thread without graph optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = to_model(model) if isinstance(model, gs.Graph) else model
    data = str(source) if isinstance(source, Path) else source.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def largest_error(reference: list[NDArray[Any]], candidate: list[NDArray[Any]]) -> float:
    """The largest difference of any output, as a share of that output's largest magnitude."""
    return max(
        float(np.abs(x.astype(np.float64) - y.astype(np.float64)).max() / np.abs(x).max())
        for x, y in zip(reference, candidate, strict=True)
    )

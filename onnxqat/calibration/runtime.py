"""Inner tensors of a graph, read through ONNX Runtime."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from numpy.typing import NDArray

from onnxqat.core.errors import ConfigError, ModelError
from onnxqat.graph import Graph, to_model

if TYPE_CHECKING:
    import onnxruntime as ort

Arrays = Mapping[str, NDArray[Any]]

_SERIALIZABLE = 1 << 30
"""Bytes of a model that is handed over in memory; protobuf itself ends at 2 GB."""
_ONLY_ERRORS = 3
"""ONNX Runtime's log level."""


class TensorReader:
    """Runs a graph and returns the tensors that were asked for."""

    def __init__(self, graph: Graph, tensors: Sequence[str], *, threads: int | None = None) -> None:
        inputs = {tensor.name for tensor in graph.inputs}
        self._fed = [name for name in tensors if name in inputs]
        self._computed = [name for name in tensors if name not in inputs]
        self._session = open_session(with_outputs(graph, self._computed), threads=threads)

    def __call__(self, inputs: Arrays) -> Arrays:
        """The tensors by name, for one batch of inputs.

        Raises:
            ModelError: ONNX Runtime fails on the batch.
        """
        read = {name: inputs[name] for name in self._fed}
        if not self._computed:
            return read
        try:
            values = self._session.run(self._computed, dict(inputs))
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime cannot run the model on this batch: {error}",
                fix="check the model and the data with onnxruntime alone",
            ) from error
        return {**read, **dict(zip(self._computed, values, strict=True))}


def with_outputs(graph: Graph, tensors: Sequence[str]) -> onnx.ModelProto:
    """The model of a graph, with more of its tensors as outputs."""
    model = to_model(graph)
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in tensors if name not in outputs
    )
    return model


def open_session(model: onnx.ModelProto, *, threads: int | None) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, for a model of any size.

    Optimizations may fuse nodes, but never away a tensor that is an output of the model.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
        ConfigError: ONNX Runtime is not installed.
    """
    if find_spec("onnxruntime") is None:
        raise ConfigError(
            "the package onnxruntime is not installed", fix="pip install 'onnxqat[cpu]'"
        )
    try:
        open_model = _open if _weight_bytes(model) < _SERIALIZABLE else _open_through_files
        return open_model(model, threads or max((os.cpu_count() or 2) - 1, 1))
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot load the model: {error}",
            fix="calibration needs a model that ONNX Runtime can run",
        ) from error


def _weight_bytes(model: onnx.ModelProto) -> int:
    """About the bytes of all weights; a proto of more than 2 GB does not tell its own size."""
    return sum(4 * prod(tensor.dims) for tensor in model.graph.initializer)


def _open(model: onnx.ModelProto, threads: int) -> ort.InferenceSession:
    return _session(model.SerializeToString(), _options(threads))


def _open_through_files(model: onnx.ModelProto, threads: int) -> ort.InferenceSession:
    """A session that reads its weights from files, which it keeps open.

    They are used as they lie there: no copy of them is packed or fused for speed.
    """
    import onnxruntime as ort

    options = _options(threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(model, path, save_as_external_data=True, location="weights")
        return _session(str(path), options)


def _options(threads: int) -> ort.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _ONLY_ERRORS
    options.intra_op_num_threads = threads
    # Threads that wait must not spin on the core that looks at the activations.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(model: bytes | str, options: ort.SessionOptions) -> ort.InferenceSession:
    import onnxruntime as ort

    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

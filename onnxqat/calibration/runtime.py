"""Inner tensors of a graph, read through ONNX Runtime."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from numpy.typing import NDArray

from onnxqat.core.errors import ConfigError, ModelError
from onnxqat.graph import Graph, to_model
from onnxqat.graph.exporter import constants_of, export_model
from onnxqat.graph.external import ExternalWriter

if TYPE_CHECKING:
    import onnxruntime as ort

Arrays = Mapping[str, NDArray[Any]]
Activations = dict[str, NDArray[Any]]
"""Of one batch, for the caller to keep or to empty."""

_SERIALIZABLE = 1 << 30
"""Bytes of weights up to which a model is handed over in memory, which takes two more copies of
them; protobuf itself ends at 2 GB."""
_ONLY_ERRORS = 3
"""ONNX Runtime's log level."""


class TensorReader:
    """Runs a graph and returns the tensors that were asked for."""

    def __init__(self, graph: Graph, tensors: Sequence[str], *, threads: int | None = None) -> None:
        inputs = {tensor.name for tensor in graph.inputs}
        self._fed = [name for name in tensors if name in inputs]
        self._computed = [name for name in tensors if name not in inputs]
        self._session = open_session(
            graph, partial(add_outputs, names=self._computed), threads=threads
        )

    def __call__(self, inputs: Arrays) -> Activations:
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


def add_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Make more of a model's tensors outputs of it."""
    outputs = {output.name for output in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in outputs
    )


def open_session(
    graph: Graph, change: Callable[[onnx.ModelProto], None], *, threads: int | None
) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU, for a graph of any size.

    Optimizations may fuse nodes, but never away a tensor that is an output of the model.

    Args:
        graph: It is not changed.
        change: What is to be changed in its model before ONNX Runtime sees it; the model may lie
            without its weights.
        threads: Of ONNX Runtime; None: one less than there are cores.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
        ConfigError: ONNX Runtime is not installed.
    """
    if find_spec("onnxruntime") is None:
        raise ConfigError(
            "the package onnxruntime is not installed", fix="pip install 'onnxqat[cpu]'"
        )
    nbytes = sum(constant._values.nbytes for constant in constants_of(graph))
    open_graph = _open if nbytes < _SERIALIZABLE else _open_through_files
    try:
        return open_graph(graph, change, _options(threads or max((os.cpu_count() or 2) - 1, 1)))
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot load the model: {error}",
            fix="calibration needs a model that ONNX Runtime can run",
        ) from error


def _open(
    graph: Graph, change: Callable[[onnx.ModelProto], None], options: ort.SessionOptions
) -> ort.InferenceSession:
    model = to_model(graph)
    change(model)
    return _session(model.SerializeToString(), options)


def _open_through_files(
    graph: Graph, change: Callable[[onnx.ModelProto], None], options: ort.SessionOptions
) -> ort.InferenceSession:
    """A session that reads its weights where they lie in a file of the temporary folder.

    They go there from the file of the model without a copy in memory, and ONNX Runtime maps them:
    it keeps them open, and must neither pack nor fuse copies of them for speed.
    """
    import onnxruntime as ort

    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        weights = Path(folder) / "weights"
        with ExternalWriter(weights, location=weights.name) as writer:
            model = export_model(graph, writer.write)
        change(model)
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
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

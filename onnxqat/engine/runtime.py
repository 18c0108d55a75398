"""ONNX Runtime sessions that compute what the file says, wrapped as Polygraphy runners."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from polygraphy.backend.onnxrt import OnnxrtRunner

from onnxqat.core.errors import ConfigError, ModelError

Array = NDArray[Any]


class _NumpyRunner(OnnxrtRunner):  # type: ignore[misc]
    """Polygraphy's runner for numpy arrays alone.

    Its own `infer_impl` also takes torch tensors, and imports torch to look for them: seconds, and
    300 MB.
    """

    def infer_impl(self, feed_dict: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name."""
        started = time.perf_counter()
        outputs = self.sess.run(None, feed_dict)
        self.inference_time = time.perf_counter() - started
        names = (output.name for output in self.sess.get_outputs())
        return dict(zip(names, outputs, strict=True))


class Runner:
    """One model, ready to run."""

    def __init__(self, runner: Any, name: str) -> None:
        self._runner = runner
        self._name = name

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name, in the model's order.

        Raises:
            ModelError: ONNX Runtime fails on these inputs.
        """
        try:
            # The data set has already checked the inputs against the model.
            outputs: dict[str, Array] = self._runner.infer(dict(inputs), check_inputs=False)
        except Exception as error:  # ONNX Runtime's errors share no class of their own
            raise ModelError(
                f"ONNX Runtime cannot run the {self._name} model: {_first_line(error)}"
            ) from error
        return outputs


@contextmanager
def running(path: Path, name: str) -> Iterator[Runner]:
    """The model of a file under ONNX Runtime on the CPU, without graph optimizations.

    Optimizations would fuse Q/DQ with their neighbours into integer kernels of ONNX Runtime's own:
    other arithmetic than the file's, and than TensorRT's. The CPU computes the same everywhere.

    Args:
        path: The model; external data lies beside it.
        name: What to call the model in errors.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
        ConfigError: ONNX Runtime is not installed.
    """
    with _NumpyRunner(_session(path, name)) as runner:
        yield Runner(runner, name)


def _session(path: Path, name: str) -> Any:
    if find_spec("onnxruntime") is None:
        raise ConfigError(
            "the package onnxruntime is not installed", fix="pip install 'onnxqat[cpu]'"
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # errors only: they also come as exceptions
    # Two models take turns: the threads of the one that waits must not spin on the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # see Runner
        raise ModelError(
            f"ONNX Runtime cannot load the {name} model: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def is_float(array: Array) -> bool:
    """Whether the values are floating-point numbers."""
    return bool(np.issubdtype(array.dtype, np.floating))

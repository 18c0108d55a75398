"""Compiles an ONNX model with TensorRT and says what the compiler made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from onnxqat.core.engine_plan import EnginePlan
from onnxqat.core.errors import BuildError
from onnxqat.engine.backends import (
    Backend,
    ComputeCapability,
    check_target,
    choose_backend,
    gpu_capability,
    sm_name,
)
from onnxqat.engine.layers import parse_inspector, parse_log
from onnxqat.engine.model_file import Model, model_file
from onnxqat.engine.node_map import with_nodes
from onnxqat.engine.profiles import Shapes, shape_profile
from onnxqat.engine.refusal import CRASH_FIX, refusal
from onnxqat.graph.query import input_specs


@dataclass(frozen=True)
class Built:
    """A compiled engine, what it consists of, and the compiler's whole log."""

    engine: bytes = field(repr=False)
    plan: EnginePlan
    log: str = field(repr=False)


def build(
    model: Model,
    *,
    backend: str = "auto",
    compute_capability: ComputeCapability = (8, 9),
    shapes: Shapes = MappingProxyType({}),
) -> Built:
    """The engine that TensorRT compiles of an ONNX model, and its plan.

    Args:
        model: A path (external data beside it is found), a ModelProto or a graph.
        backend: `rtx` (TensorRT for RTX: needs no GPU), `tensorrt` (compiles for the GPU of this
            machine), or `auto`: tensorrt where it can run, else rtx.
        compute_capability: The GPU generation that rtx compiles for, as (8, 9) for SM89.
        shapes: Input name -> shape, or `ShapeRange`; other inputs have batch 1.

    Raises:
        BuildError: The compiler or GPU is missing, the target or a shape does not fit, or the
            compiler refuses the model.
        ModelError: The model cannot be read.
    """
    chosen = choose_backend(backend)
    target = _target(chosen, compute_capability)
    with tempfile.TemporaryDirectory(prefix="onnxqat-build-") as scratch:
        folder = Path(scratch)
        file = model_file(model, folder / "model")
        profile = shape_profile(input_specs(file.graph), shapes)
        request = _Request(
            model=str(file.path),
            engine=str(folder / "engine"),
            layers=str(folder / "layers.json"),
            rtx=chosen == "rtx",
            compute_capability=target,
            shapes={
                name: (shape.minimum, shape.optimum, shape.maximum)
                for name, shape in profile.items()
            },
        )
        built = _compile(request, folder)
        return replace(built, plan=with_nodes(built.plan, file.graph))


@dataclass(frozen=True)
class _Request:
    """What the child process is asked to do; see `onnxqat.engine.compiler`."""

    model: str
    engine: str
    layers: str
    rtx: bool
    compute_capability: ComputeCapability
    shapes: Mapping[str, Any]


def _target(backend: Backend, capability: ComputeCapability) -> ComputeCapability:
    if backend == "rtx":
        check_target(capability)
        return capability
    return gpu_capability() or capability


def _compile(request: _Request, folder: Path) -> Built:
    code, log = _run_compiler(request, folder)
    if code != 0:
        raise _failure(code, log)
    target = sm_name(request.compute_capability)
    if request.rtx:
        plan = parse_log(log, target=target)
    else:
        plan = parse_inspector(Path(request.layers).read_text(), target=target)
    return Built(Path(request.engine).read_bytes(), plan, log)


def _run_compiler(request: _Request, folder: Path) -> tuple[int, str]:
    """Exit code and log of the compiler's process; a log can be large, so it goes to a file."""
    request_file, log_file = folder / "request.json", folder / "log.txt"
    request_file.write_text(json.dumps(asdict(request)))
    with log_file.open("w") as log:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "onnxqat.engine.compiler", str(request_file)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=folder,  # so that no module in the user's folder shadows an installed one
            env=_environment(rtx=request.rtx),
            check=False,
        )
    return done.returncode, log_file.read_text(errors="replace")


def _environment(*, rtx: bool) -> dict[str, str]:
    """The child's environment: Polygraphy reads its choice of compiler there, once."""
    paths = [path for path in sys.path if path] + [str(Path(__file__).parents[2])]
    return os.environ | {
        "POLYGRAPHY_USE_TENSORRT_RTX": "1" if rtx else "0",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(str(Path(path).resolve()) for path in paths)),
    }


def _failure(code: int, log: str) -> BuildError:
    if code < 0:
        return BuildError(f"the TensorRT compiler crashed (signal {-code})", fix=CRASH_FIX)
    return refusal(log)

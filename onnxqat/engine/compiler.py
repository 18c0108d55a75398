"""The child process that runs a TensorRT compiler through Polygraphy: `python -m` this module.

A process of its own, because Polygraphy chooses between TensorRT and TensorRT-RTX once a process
(by POLYGRAPHY_USE_TENSORRT_RTX at import), because the compilers print where they like, and because
one that crashes must not take the user's session with it. It talks through files: a JSON request
in, the engine and (where a GPU can load the engine) the inspector's layer list out; stdout is the
compiler's log.
"""

from __future__ import annotations

import glob
import json
import sys
from pathlib import Path
from typing import Any

from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
from polygraphy.backend.trt import (
    CreateConfig,
    EngineBytesFromNetwork,
    EngineFromBytes,
    NetworkFromOnnxPath,
    Profile,
)
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER
from polygraphy.mod.trt_importer import lazy_import_trt

trt = lazy_import_trt()
"""TensorRT-RTX or TensorRT, as the environment says."""

REFUSED = 3
"""Exit code: the compiler refused the model; the log says why."""


def main(request_path: str) -> int:
    """Compile as the request says; 0, or `REFUSED` with the reason in the log."""
    G_LOGGER.colors = False
    G_LOGGER.module_severity = G_LOGGER.EXTRA_VERBOSE  # the compiler's own VERBOSE
    request = json.loads(Path(request_path).read_text())
    try:
        engine = _compile(request)
        Path(request["engine"]).write_bytes(engine)
        if not request["rtx"]:
            Path(request["layers"]).write_text(_inspect(engine))
    except PolygraphyException as error:
        print(f"[!] {error}")
        return REFUSED
    return 0


def _compile(request: dict[str, Any]) -> bytes:
    # By path, not as bytes: so the parser finds external data beside the model.
    network = NetworkFromOnnxPath(request["model"], strongly_typed=True)
    return bytes(EngineBytesFromNetwork(network, _config(request))())


def _config(request: dict[str, Any]) -> Any:
    """The builder configuration; DETAILED makes the compiler list its layers."""
    common = {
        "profiles": [_profile(request["shapes"])],
        "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,
    }
    if not request["rtx"]:
        return CreateConfig(**common)
    return CreateConfigRTX(compute_capabilities=[tuple(request["compute_capability"])], **common)


def _profile(shapes: dict[str, list[list[int]]]) -> Any:
    profile = Profile()
    for name, (minimum, optimum, maximum) in shapes.items():
        key = glob.escape(name)  # Polygraphy reads the names as patterns
        profile.add(key, min=tuple(minimum), opt=tuple(optimum), max=tuple(maximum))
    return profile


def _inspect(engine: bytes) -> str:
    """TensorRT's own description of the engine, as JSON; loading the engine needs a GPU."""
    inspector = EngineFromBytes(engine)().create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""The child process that runs a TensorRT compiler through Polygraphy: `python -m` this module.

A process of its own, because Polygraphy chooses between TensorRT and TensorRT-RTX once a process
(by an environment variable at import), because the compilers print where they like, and because
one that crashes must not take the user's session with it. It talks through files: a JSON request
in, the engine and (where a GPU can load the engine) the inspector's layer list out; stdout is the
compiler's log.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

REFUSED = 3
"""Exit code: the compiler refused the model; the log says why."""


def main(request_path: str) -> int:
    """Compile as the request says; 0, or `REFUSED` with the reason in the log."""
    request = json.loads(Path(request_path).read_text())
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    G_LOGGER.colors = False
    G_LOGGER.module_severity = G_LOGGER.EXTRA_VERBOSE
    try:
        engine = _compile(request)
    except PolygraphyException as error:
        print(f"[!] {error}")
        return REFUSED
    Path(request["engine"]).write_bytes(engine)
    if not request["rtx"]:
        Path(request["layers"]).write_text(_inspect(engine))
    return 0


def _compile(request: dict[str, Any]) -> bytes:
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath

    # The path, not the bytes: so the parser finds external data beside the model.
    network = NetworkFromOnnxPath(request["model"], strongly_typed=True)
    return bytes(EngineBytesFromNetwork(network, _config(request))())


def _config(request: dict[str, Any]) -> Any:
    """The builder configuration, with the layer list asked for (DETAILED)."""
    if request["rtx"]:
        import tensorrt_rtx as trt
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        target = [tuple(request["compute_capability"])]
        return CreateConfigRTX(compute_capabilities=target, **_common_config(request, trt))
    import tensorrt as trt
    from polygraphy.backend.trt import CreateConfig

    return CreateConfig(**_common_config(request, trt))


def _common_config(request: dict[str, Any], trt: Any) -> dict[str, Any]:
    from polygraphy.backend.trt import Profile

    profile = Profile()
    for name, (minimum, optimum, maximum) in request["shapes"].items():
        profile.add(name, min=tuple(minimum), opt=tuple(optimum), max=tuple(maximum))
    return {"profiles": [profile], "profiling_verbosity": trt.ProfilingVerbosity.DETAILED}


def _inspect(engine: bytes) -> str:
    """TensorRT's own description of the engine, as JSON; loading the engine needs a GPU."""
    import tensorrt as trt
    from polygraphy.backend.trt import EngineFromBytes

    inspector = EngineFromBytes(engine)().create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""Quantization-aware training of ONNX files for TensorRT.

FP32 ONNX in, fine-tuned Q/DQ ONNX out. The stages are verbs over plain types, and each may be used
alone; `onnxqat.run` is all of them in order. Importing this package loads none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxqat.version import __version__

if TYPE_CHECKING:
    from onnxqat.auditing import audit
    from onnxqat.bridge import OnnxModule, to_torch, write_back
    from onnxqat.calibration import calibrate
    from onnxqat.core.calibration import Calibration, TensorRange
    from onnxqat.core.comparison import Comparison, LayerError
    from onnxqat.core.engine_plan import EngineLayer, EnginePlan
    from onnxqat.core.errors import OnnxqatError
    from onnxqat.core.finding import Finding, Severity
    from onnxqat.core.plan import Edge, Placement, QuantPlan, Skip
    from onnxqat.core.sensitivity import Sensitivity
    from onnxqat.core.spec import PerChannel, PerTensor, QuantDtype, QuantSpec, SharedSpec
    from onnxqat.core.summary import Summary
    from onnxqat.data import open_data
    from onnxqat.engine import build, compare
    from onnxqat.graph import Graph, extract, insert, load, prepare, save
    from onnxqat.initialization import equalize, initialize
    from onnxqat.mixing import mix
    from onnxqat.pipeline import run
    from onnxqat.placement import place
    from onnxqat.training import finetune, sensitivity

_HOMES = {
    "onnxqat.auditing": ("audit",),
    "onnxqat.bridge": ("OnnxModule", "to_torch", "write_back"),
    "onnxqat.calibration": ("calibrate",),
    "onnxqat.core.calibration": ("Calibration", "TensorRange"),
    "onnxqat.core.comparison": ("Comparison", "LayerError"),
    "onnxqat.core.engine_plan": ("EngineLayer", "EnginePlan"),
    "onnxqat.core.errors": ("OnnxqatError",),
    "onnxqat.core.finding": ("Finding", "Severity"),
    "onnxqat.core.plan": ("Edge", "Placement", "QuantPlan", "Skip"),
    "onnxqat.core.sensitivity": ("Sensitivity",),
    "onnxqat.core.spec": ("PerChannel", "PerTensor", "QuantDtype", "QuantSpec", "SharedSpec"),
    "onnxqat.core.summary": ("Summary",),
    "onnxqat.data": ("open_data",),
    "onnxqat.engine": ("build", "compare"),
    "onnxqat.graph": ("Graph", "extract", "insert", "load", "prepare", "save"),
    "onnxqat.initialization": ("equalize", "initialize"),
    "onnxqat.mixing": ("mix",),
    "onnxqat.pipeline": ("run",),
    "onnxqat.placement": ("place",),
    "onnxqat.training": ("finetune", "sensitivity"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Calibration",
    "Comparison",
    "Edge",
    "EngineLayer",
    "EnginePlan",
    "Finding",
    "Graph",
    "LayerError",
    "OnnxModule",
    "OnnxqatError",
    "PerChannel",
    "PerTensor",
    "Placement",
    "QuantDtype",
    "QuantPlan",
    "QuantSpec",
    "Sensitivity",
    "Severity",
    "SharedSpec",
    "Skip",
    "Summary",
    "TensorRange",
    "__version__",
    "audit",
    "build",
    "calibrate",
    "compare",
    "equalize",
    "extract",
    "finetune",
    "initialize",
    "insert",
    "load",
    "mix",
    "open_data",
    "place",
    "prepare",
    "run",
    "save",
    "sensitivity",
    "to_torch",
    "write_back",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use (PEP 562), to keep the import light."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'onnxqat' has no attribute '{name}'")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)

"""Measures a model, for the rules that look at more than the file."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxqat.auditing.audit import Model
from onnxqat.auditing.config import AuditConfig
from onnxqat.auditing.evidence import NOTHING, Evidence
from onnxqat.auditing.observe import SAMPLES, observe
from onnxqat.core.errors import BuildError
from onnxqat.data import Dataset
from onnxqat.engine import build, compare
from onnxqat.engine.backends import ComputeCapability, choose_backend


@dataclass(frozen=True)
class Target:
    """What to compile for."""

    backend: str = "auto"
    compute_capability: ComputeCapability = (8, 9)


def gather(
    model: Model,
    config: AuditConfig,
    *,
    target: Target | None = None,
    data: Dataset | None = None,
    reference: Model | None = None,
    samples: int | None = None,
) -> Evidence:
    """What the compiler makes of a model, what its activations are, and how far off it is.

    Args:
        model: The Q/DQ model.
        config: For the shapes to build for.
        target: Compile, for this; None: do not.
        data: Run the model on it; None: do not.
        reference: The float model, to compare with on the data.
        samples: How many samples are used; None: 64 for values, and all to compare.

    Raises:
        BuildError: There is no compiler. (That it refuses the model is evidence.)
        DataError: The data does not fit the model.
        ModelError: ONNX Runtime cannot run a model.
    """
    evidence = NOTHING if target is None else _compiled(model, config, target)
    if data is None:
        return evidence
    evidence = replace(evidence, observed=observe(model, data, samples=samples or SAMPLES))
    if reference is None:
        return evidence
    compared = compare(reference, model, data, layers=True, samples=samples)
    return replace(evidence, comparison=compared)


def _compiled(model: Model, config: AuditConfig, target: Target) -> Evidence:
    backend = choose_backend(target.backend)
    try:
        built = build(
            model,
            backend=backend,
            compute_capability=target.compute_capability,
            shapes=config.shapes,
        )
    except BuildError as error:
        return Evidence(refusal=error.problem, refused_node=error.node)
    return Evidence(engine=built.plan)
